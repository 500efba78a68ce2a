"""Making baselines: experts as dense deltas, their average, PEFT's combinations, mergekit's merges."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from mergers._mergekit_run import mergekit_merges
from studio.adapters import Adapter, Factors, load_adapter
from studio.families import detect
from studio.files import atomic_file
from studio.overlay import weight_of

if TYPE_CHECKING:
    from recipes._baselines import Baseline

Made = Iterator[tuple["Baseline", dict[str, Tensor] | str]]


def make(
    wanted: Sequence[Baseline],
    base: Path,
    experts: Mapping[str, Adapter],
    others: Mapping[str, Adapter],
    seed: int,
) -> Iterator[tuple[Baseline, str]]:
    """Write the files of baselines, and yield each with the sentence that says why there is none, or ""."""
    for each, made in _all(wanted, base, experts, others, seed):
        if not isinstance(made, str):
            odd = next((path for path, delta in made.items() if not bool(torch.isfinite(delta).all())), None)
            if odd is not None:
                made = f"'{odd}' comes out with values that are not finite"
        if not isinstance(made, str):
            assert each.file is not None
            with atomic_file(each.file) as stream:
                save_file({path: delta.float().contiguous() for path, delta in made.items()}, stream.name)
        yield each, made if isinstance(made, str) else ""


def _all(
    wanted: Sequence[Baseline],
    base: Path,
    experts: Mapping[str, Adapter],
    others: Mapping[str, Adapter],
    seed: int,
) -> Made:
    for each in wanted:
        if each.kind in ("expert", "training"):
            yield each, added([{**experts, **others}[each.name].modules], [1.0])
        elif each.kind == "average":
            yield each, added([a.modules for a in experts.values()], [1 / len(experts)] * len(experts))
    outside = {kind: [each for each in wanted if each.kind == kind] for kind in ("mergekit", "peft")}
    if any(outside.values()):
        loaded = detect(base).load(base, dtype=torch.float32, device="cpu")
        yield from _mergekit(loaded.model, experts, outside["mergekit"], seed)  # PEFT wraps the layers
        yield from _peft(loaded.model, experts, outside["peft"], seed)


def _mergekit(model: Any, experts: Mapping[str, Adapter], wanted: Sequence[Baseline], seed: int) -> Made:
    """Yield what mergekit makes of the weights with the experts folded in, less the base's."""
    if not wanted:
        return
    ground = {path: weight_of(model, path).detach().clone() for path in _paths(experts)}
    models = [
        {path: w + a.modules[path].delta() if path in a.modules else w for path, w in ground.items()}
        for a in experts.values()
    ]
    named = {each.name: each for each in wanted}
    jobs: dict[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]] = {
        each.name: (each.how, {"t": 0.5} if each.how == "slerp" else {}, each.settings) for each in wanted
    }
    for name, made in mergekit_merges(ground, models, jobs, seed=seed):
        whole = made if isinstance(made, str) else {path: made[path] - w for path, w in ground.items()}
        yield named[name], whole


def _peft(model: Any, experts: Mapping[str, Adapter], wanted: Sequence[Baseline], seed: int) -> Made:
    """Yield what PEFT makes of the adapters as they are."""
    if not wanted:
        return
    for at, adapter in enumerate(experts.values()):
        model = load_adapter(model, adapter.folder, adapter_name=f"expert{at}")
    names = [f"expert{at}" for at in range(len(experts))]
    inner = model.get_base_model()
    for each in wanted:
        more = {key: value for key, value in each.settings.items() if key == "density"}
        weights = [each.settings["weight"]] * len(names)
        try:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                model.add_weighted_adapter(names, weights, "sum", combination_type=each.how, **more)
        except (ValueError, RuntimeError, NotImplementedError, KeyError) as error:
            yield each, f"PEFT's {each.how} refuses: {str(error).splitlines()[0]}"
        else:
            parts = {path: inner.get_submodule(path) for path in _paths(experts)}
            yield (
                each,
                {
                    path: part.get_delta_weight("sum").detach().float().clone()
                    for path, part in parts.items()
                    if "sum" in part.lora_A
                },
            )
        if "sum" in model.peft_config:
            model.delete_adapter("sum")


def added(modules: Sequence[Mapping[str, Factors]], weights: Sequence[float]) -> dict[str, Tensor]:
    """Return the weighted sum of adapters' deltas, by module."""
    total: dict[str, Tensor] = {}
    for own, weight in zip(modules, weights, strict=True):
        for path, factors in own.items():
            delta = weight * factors.delta()
            total[path] = total[path] + delta if path in total else delta
    return total


def _paths(experts: Mapping[str, Adapter]) -> list[str]:
    return list(dict.fromkeys(path for adapter in experts.values() for path in adapter.names()))
