"""What a merge is held against: base, experts, the plain average, and what PEFT and mergekit make of them.

    found = baselines(base, {"textiles": folder, "commands": folder}, Path("runs/baselines"), log)
    with overlaid(loaded.model, found["peft cat weight=1"].deltas()):
        answers(loaded, family, samples)

All are kept in a folder as what they add to the base's weights, by the path of the module, and found there
the next time. The deltas of the experts are those that they stand for (scaling times B A); PEFT combines the
adapters by its own `add_weighted_adapter`, mergekit runs on the weights with the experts folded in.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor

from recipes._baseline_merges import make
from studio.adapters import Adapter, read_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError
from studio.files import atomic_write, sha256_file
from studio.log import Log, QuietLog
from studio.mixed import refusal

KINDS = ("base", "expert", "average", "peft", "mergekit", "training")
#: PEFT's kinds of combination that take no density, and those that do.
PLAIN = ("linear", "cat", "svd")
SPARSE = (
    "ties", "dare_linear", "dare_ties", "magnitude_prune",
    "ties_svd", "dare_linear_svd", "dare_ties_svd", "magnitude_prune_svd",
)  # fmt: skip
#: mergekit's methods -> which of weight and density they take.
MERGEKIT: Mapping[str, tuple[str, ...]] = {
    "linear": ("weight",),
    "task_arithmetic": ("weight",),
    **dict.fromkeys(
        ("ties", "dare_linear", "dare_ties", "della", "della_linear", "breadcrumbs", "breadcrumbs_ties"),
        ("weight", "density"),
    ),
    **dict.fromkeys(("sce", "model_stock", "karcher", "slerp"), ()),
}
#: Those of them that divide by the weights: one weight for all models changes nothing.
NORMALISED = ("linear", "ties", "della")
#: How many experts a method of mergekit takes, where it does not take any number.
COUNTS = {"slerp": (2, 2), "model_stock": (2, 1_000)}


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """One baseline: ``file`` holds what it adds to the base's weights, None for nothing.

    ``kind`` is one of `KINDS`; ``how`` and ``settings`` are a method and its settings in the words of the
    program that it is of, or an adapter's folder.
    """

    name: str
    kind: str
    how: str = ""
    settings: Mapping[str, float] = field(default_factory=dict)
    file: Path | None = None

    def deltas(self) -> dict[str, Tensor]:
        """Return path of a module -> what its weight gains, in float32."""
        return load_file(self.file) if self.file is not None else {}


class Baselines(dict[str, Baseline]):
    """Baselines by name, and under ``refused`` the sentences of those that could not be made."""

    def __init__(self, found: Iterable[Baseline], refused: Mapping[str, str]) -> None:
        """Hold these."""
        super().__init__({each.name: each for each in found})
        self.refused: dict[str, str] = dict(refused)


def baselines(
    base: str | Path,
    experts: Mapping[str, str | Path],
    folder: str | Path,
    log: Log | None = None,
    *,
    peft: bool = True,
    mergekit: bool = True,
    weights: Sequence[float] = (1.0, 0.0),
    densities: Sequence[float] = (0.5,),
    trained: Mapping[str, str | Path] | None = None,
    seed: int = 0,
) -> Baselines:
    """Return every baseline by name, made now or found in ``folder``.

    Args:
        base: the model's folder that all experts stand on.
        experts: domain -> adapter folder.
        folder: where they are kept, by a hash of all that goes in: each takes as much as the adapted weights
            in float32, 20 MB where they are those of nano-omni.
        log: is told how many are made.
        peft: whether PEFT's combinations are among them.
        mergekit: whether mergekit's merges are.
        weights: of every expert alike in PEFT's and mergekit's; 0 stands for one over their number.
        densities: of what PEFT sparsifies; mergekit's are tried at its default and at these.
        trained: further adapters by name, such as one trained on all domains at once.
        seed: of what PEFT and mergekit draw at random.

    Raises:
        CheckpointError: an expert that is no plain LoRA, or belongs to another base.
    """
    log, folder, trained = log or QuietLog(), Path(folder), trained or {}
    opened = {name: read_expert(path, base) for name, path in {**experts, **trained}.items()}
    found = [Baseline(name="base", kind="base", how=str(base))]
    found += [
        Baseline(name=name, kind="expert" if name in experts else "training", how=str(adapter.folder))
        for name, adapter in opened.items()
    ]
    found.append(Baseline(name="average", kind="average", how="average"))
    found += _of_peft(len(experts), weights, densities) if peft else ()
    found += _of_mergekit(len(experts), weights, densities) if mergekit else ()

    prints = {name: _fingerprint(adapter) for name, adapter in opened.items()}
    common = [Checkpoint(base).fingerprint(), str(seed), *(prints[name] for name in experts)]
    common += [version(name) for name in ("peft", "mergekit", "torch")]
    placed = [found[0], *(_placed(each, folder, common, prints) for each in found[1:])]
    refused = _refusals(folder)
    left = [each for each in placed if each.file and not each.file.exists() and each.file.stem not in refused]
    if left:
        log.stage("baselines", len(left), "merges")
        adapters = {name: opened[name] for name in experts}
        others = {name: opened[name] for name in trained}
        for each, why in make(left, Path(base), adapters, others, seed):
            if why and each.file:
                refused[each.file.stem] = why
                atomic_write(folder / "refused.json", json.dumps(refused, indent=2) + "\n")
            log.advance(1)
    said = {each.name: refused[each.file.stem] for each in placed if each.file and each.file.stem in refused}
    return Baselines((each for each in placed if each.name not in said), said)


def _of_peft(count: int, weights: Sequence[float], densities: Sequence[float]) -> Iterator[Baseline]:
    kinds: list[tuple[str, Sequence[float | None]]] = [(how, (None,)) for how in PLAIN]
    kinds += [(how, densities) for how in SPARSE]
    for how, shares in kinds:
        for weight in weights:
            for density in shares:
                yield _baseline("peft", how, weight, density, count)


def _of_mergekit(count: int, weights: Sequence[float], densities: Sequence[float]) -> Iterator[Baseline]:
    for how, takes in MERGEKIT.items():
        least, most = COUNTS.get(how, (1, 1_000))
        own: Sequence[float | None] = weights if "weight" in takes else (None,)
        for weight in own[:1] if how in NORMALISED else own:
            for density in (None, *densities) if "density" in takes else (None,):
                if least <= count <= most:
                    yield _baseline("mergekit", how, weight, density, count)


def _baseline(kind: str, how: str, weight: float | None, density: float | None, count: int) -> Baseline:
    settings: dict[str, float] = {}
    name = f"{kind} {how}"
    if weight is not None:
        settings["weight"] = weight or 1 / count
        name += f" weight={weight:g}" if weight else " weight=1/n"
    if density is not None:
        settings["density"] = density
        name += f" density={density:g}"
    return Baseline(name=name, kind=kind, how=how, settings=settings)


def _placed(each: Baseline, folder: Path, common: Sequence[str], prints: Mapping[str, str]) -> Baseline:
    """Return the baseline with its place in the folder, known from all that goes into it."""
    alone = each.kind in ("expert", "training")
    parts = [prints[each.name]] if alone else [*common, each.kind, each.how, json.dumps(each.settings)]
    name = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]
    return Baseline(
        name=each.name, kind=each.kind, how=each.how, settings=each.settings,
        file=folder / f"{name}.safetensors",
    )  # fmt: skip


def read_expert(folder: str | Path, base: str | Path) -> Adapter:
    """Return an expert; `CheckpointError` unless it is a plain LoRA of this base."""
    adapter = read_adapter(folder)
    if why := refusal(adapter):
        raise CheckpointError(f"{folder} is more than factors of linear modules: {why}")
    if adapter.base_fingerprint not in ("", Checkpoint(base).fingerprint()):
        raise CheckpointError(f"{folder} was made for {adapter.base or 'another base'}, not for {base}")
    return adapter


def _fingerprint(adapter: Adapter) -> str:
    names = ("adapter_model.safetensors", "adapter_config.json")
    return " ".join(sha256_file(adapter.folder / name) for name in names)


def _refusals(folder: Path) -> dict[str, str]:
    try:
        return dict(json.loads((folder / "refused.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}  # who was refused is asked again


__all__ = ["KINDS", "Baseline", "Baselines", "baselines", "read_expert"]
