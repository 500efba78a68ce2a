"""A full fine-tune as an adapter: what it changed of the base, module by module, cut to a rank.

Weights of linear layers, embeddings and convolutions become LoRA factors, their biases LoRA's own; a module
of another kind (a norm), and a table that the head shares, is stored whole, as PEFT's ``modules_to_save``.
What no adapter can hold is named as lost. The models are read tensor by tensor; in memory is what is worked
on, and the adapter.
"""

from __future__ import annotations

import time
import zlib
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mergers import _engine
from mergers._extraction import Extraction, card
from mergers._factors import Rank
from mergers._inputs import check_output
from mergers._leading import approximate
from mergers._report import ModuleReport
from mergers._sources import Source
from mergers._spec import MergeSpec
from mergers._stream import is_finite
from mergers._threads import in_order, one_torch_thread, workers
from studio import families
from studio.adapter_files import fill_adapter
from studio.adapters import Factors, is_adapter
from studio.checkpoint import Checkpoint
from studio.errors import CheckpointError, MergeError
from studio.files import atomic_folder
from studio.log import Log, QuietLog
from studio.module_names import tensor_names

if TYPE_CHECKING:
    from studio.families._layout import Module

LORA = ("linear", "embedding", "conv")


def extract(
    tuned: str | Path,
    base: str | Path,
    out: str | Path,
    *,
    rank: Rank,
    allow: Iterable[str] = (),
    threads: int = 0,
    log: Log | None = None,
) -> Extraction:
    """Write the adapter that turns ``base`` into ``tuned`` as far as the rank goes; whole or not at all.

    Raises `MergeError` for models that do not belong together, as a merge of them would, and where nothing
    that LoRA can adapt has changed; `CheckpointError` where transformers has no class for the model.
    """
    began, out, log = time.monotonic(), Path(out), log or QuietLog()
    keys = {"method": "linear", "base": base, "models": [tuned], "rank": rank, "output": "model"}
    spec = MergeSpec.from_mapping({**keys, "allow": list(allow), "threads": threads}, where="extract")
    if is_adapter(tuned):
        raise MergeError(f"{tuned} is an adapter already; a merge of it alone with --rank cuts its rank")
    check_output(spec, out)
    _engine.plan(spec)  # what would stop a merge of the two stops this
    pair = _Pair(Checkpoint(base), Checkpoint(tuned))
    with one_torch_thread():
        found = _changes(pair, rank, workers(threads), log)
    report = _report(out, found)
    factors = {change.path: change.factors for change in found if change.factors is not None}
    if not factors:
        only = next(iter([*report.kept, *report.lost]), None)
        raise MergeError(
            f"{tuned} changes nothing of {base} that LoRA can adapt" + (f", only '{only}'" if only else "")
        )
    with atomic_folder(out) as folder:
        fill_adapter(
            folder, _with_biases(factors), base=str(base), base_fingerprint=Checkpoint(base).fingerprint(),
            family=_family(base), values={n: v for change in found for n, v in change.values.items()},
            dtype=torch.float32, note={"made_by": "extract", "source": str(tuned), "rank": rank},
            tied=pair.copies,
        )  # fmt: skip
        (folder / "README.md").write_text(card(report, str(base), str(tuned), rank), encoding="utf-8")
    return replace(report, seconds=time.monotonic() - began)


@dataclass(frozen=True, kw_only=True)
class _Change:
    """What became of one module: factors, or tensors stored whole, or lost; with their lengths."""

    path: str
    factors: Factors | None = None
    report: ModuleReport | None = None
    values: Mapping[str, Tensor] = field(default_factory=dict)
    kept: Mapping[str, float] = field(default_factory=dict)
    lost: Mapping[str, float] = field(default_factory=dict)


class _Pair:
    """The two models, and how the base's modules are called in memory and on disk."""

    def __init__(self, base: Checkpoint, tuned: Checkpoint) -> None:
        """Find the modules' tensors on disk."""
        self.base, self._tuned = base, Source(donor=base, checkpoint=tuned)
        layout = families.layout(base.folder)
        self.places = _places(
            {f"{path}.{own}": shape for path, m in layout.items() for own, shape in m.tensors.items()}, base
        )
        #: Module -> the tensors of it that are on disk, by their own names.
        self.modules: dict[str, tuple[Module, dict[str, str]]] = {}
        for path, module in layout.items():
            own = {o: self.places[f"{path}.{o}"] for o in module.tensors if f"{path}.{o}" in self.places}
            if own:
                self.modules[path] = module, own
        #: Tensor of a module that is not on disk, being another one's -> that one.
        self.copies: dict[str, str] = {}
        for path, module in layout.items():
            for other, (twin, _) in self.modules.items():
                if path not in self.modules and module.shared and module.shared == twin.shared:
                    self.copies |= {f"{path}.{own}": f"{other}.{own}" for own in module.tensors}

    def delta(self, name: str) -> Tensor | None:
        """Return what was changed of a tensor on disk, in float32, or None for nothing."""
        ground, values = self.base.read(name).float(), self.value(name).float()
        if torch.equal(values, ground):
            return None
        change = values.sub_(ground)
        if not is_finite(change):
            raise MergeError(f"'{name}' holds values that are not finite in one of the two models")
        return change

    def value(self, name: str) -> Tensor:
        """Return a tensor as the fine-tune has it."""
        return self._tuned.reader(name)(0, self.base.entry(name).numel, None).view(self.base.shape(name))

    def as_lora(self, path: str, biased: bool) -> bool:
        """Return whether a module becomes factors; PEFT has no embeddings beside changed biases."""
        module, own = self.modules[path]
        fits = module.kind in LORA and set(own) <= {"weight", "bias"} and "weight" in own
        return fits and not module.shared and not (biased and module.kind == "embedding")

    def as_whole(self, path: str) -> bool:
        """Return whether a module that is no LoRA can be stored whole."""
        module, own = self.modules[path]
        return module.leaf and set(own) == set(module.tensors)


def _changes(pair: _Pair, rank: Rank, threads: int, log: Log) -> list[_Change]:
    biased = any(
        pair.as_lora(path, False) and "bias" in own and pair.delta(own["bias"]) is not None
        for path, (_, own) in pair.modules.items()
    )
    log.stage("extract", len(pair.modules), "modules")

    def one(path: str) -> _Change:
        return _adapt(pair, path, rank) if pair.as_lora(path, biased) else _keep(pair, path)

    found = []
    for change in in_order(one, list(pair.modules), threads):
        found.append(change)
        log.advance(1)
    placed = set(pair.places.values())
    stray = {name: pair.delta(name) for name in pair.base.names() if name not in placed}
    lost = {name: float(change.norm()) for name, change in stray.items() if change is not None}
    return [*found, _Change(path="", lost=lost)]


def _adapt(pair: _Pair, path: str, rank: Rank) -> _Change:
    """Return a module's change as factors and a bias."""
    module, own = pair.modules[path]
    change, bias = pair.delta(own["weight"]), pair.delta(own["bias"]) if "bias" in own else None
    if change is None and bias is None:
        return _Change(path=path)
    shape = pair.base.shape(own["weight"])
    change = torch.zeros(shape) if change is None else change
    made = approximate(change.reshape(shape[0], -1), rank, seed=zlib.crc32(path.encode()))
    kind = "linear" if module.kind == "other" else module.kind
    factors = Factors(a=made.a, b=made.b, shape=shape, kind=kind, bias=bias)
    norm = float(change.norm())
    report = ModuleReport(name=path, rank=factors.rank, energy=made.energy, norm=norm, longest=norm)
    kept = {} if bias is None else {f"{path}.bias": float(bias.norm())}
    return _Change(path=path, factors=factors, report=report, kept=kept)


def _keep(pair: _Pair, path: str) -> _Change:
    """Return a module's tensors whole, or as lost."""
    _, own = pair.modules[path]
    changed = {f"{path}.{o}": d for o, n in own.items() if (d := pair.delta(n)) is not None}
    norms = {name: float(delta.norm()) for name, delta in changed.items()}
    if not norms or not pair.as_whole(path):
        return _Change(path=path, lost=norms)
    return _Change(path=path, kept=norms, values={f"{path}.{o}": pair.value(n) for o, n in own.items()})


def _report(out: Path, found: Sequence[_Change]) -> Extraction:
    biased = any(change.factors is not None and change.factors.bias is not None for change in found)
    note = (
        "biases changed too: PEFT runs the adapter, but bakes it only where all modules have one; --bake does"
    )
    return Extraction(
        out=out,
        modules=tuple(change.report for change in found if change.report is not None),
        kept={name: norm for change in found for name, norm in change.kept.items()},
        lost={name: norm for change in found for name, norm in change.lost.items()},
        unchanged=sum(not (c.report or c.kept or c.lost) for c in found if c.path),
        warnings=(note,) if biased else (),
    )


def _with_biases(factors: Mapping[str, Factors]) -> Mapping[str, Factors]:
    """Return the factors with a bias everywhere, if one has it: PEFT asks for all or none."""
    if all(f.bias is None for f in factors.values()):
        return factors
    return {
        n: f if f.bias is not None else replace(f, bias=torch.zeros(f.shape[0])) for n, f in factors.items()
    }


def _places(wanted: Mapping[str, tuple[int, ...]], base: Checkpoint) -> dict[str, str]:
    """Return name in memory -> name on disk, of all that is there."""
    try:
        return tensor_names(wanted, base)
    except CheckpointError:  # a tied head is stored once, and buffers not always
        found: dict[str, str] = {}
        for name, shape in wanted.items():
            with suppress(CheckpointError):
                found |= tensor_names({name: shape}, base)
        return found


def _family(base: str | Path) -> str:
    try:
        return families.detect(base).name
    except CheckpointError:
        return ""


__all__ = ["Extraction", "extract"]
