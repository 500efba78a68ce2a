"""Opening what is to be merged, and the checks that must pass before a byte is written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mergers._checks import CHECKS
from mergers._spec import MergeSpec
from studio.adapters import Adapter, is_adapter, read_adapter
from studio.checkpoint import Checkpoint
from studio.errors import MergeError, unknown


@dataclass(frozen=True, kw_only=True)
class Opened:
    """The inputs of a merge: per model either an adapter or a checkpoint."""

    base: Checkpoint | None
    models: tuple[Adapter | Checkpoint, ...]
    warnings: tuple[str, ...] = ()

    @property
    def adapters(self) -> list[Adapter]:
        """The inputs that are adapters."""
        return [model for model in self.models if isinstance(model, Adapter)]


def open_inputs(spec: MergeSpec) -> Opened:
    """Open base and models by their headers; `CheckpointError` or `MergeError` for what cannot be used."""
    for name in spec.allow:
        if name not in CHECKS:
            raise MergeError(f"allow: {unknown('check', name, CHECKS)}")
    models = tuple(read_adapter(m.path) if is_adapter(m.path) else Checkpoint(m.path) for m in spec.models)
    warnings: list[str] = []
    base = _base(spec, [m for m in models if isinstance(m, Adapter)], warnings)
    opened = Opened(base=base, models=models, warnings=tuple(warnings))
    if spec.recipe is None:  # which names the model under each adapter
        check_bases(spec, opened)
    return opened


def _base(spec: MergeSpec, adapters: Sequence[Adapter], warnings: list[str]) -> Checkpoint | None:
    if spec.base is not None:
        if is_adapter(spec.base):
            raise MergeError(f"base {spec.base} is an adapter; the base must be a full model")
        return Checkpoint(spec.base)
    for adapter in adapters:
        named = Path(adapter.base)
        if adapter.base and named.is_dir() and not is_adapter(named):
            base = Checkpoint(named)
            if adapter.base_fingerprint in ("", base.fingerprint()):
                return base
            warnings.append(f"the model now at {named} is not the one {adapter.folder} was trained on")
    return None


def check_bases(spec: MergeSpec, opened: Opened) -> None:
    """Refuse adapters that belong to different bases, by fingerprint, else by name."""
    if "base" in spec.allow or not opened.adapters:
        return
    known = [a for a in opened.adapters if a.base_fingerprint]
    if known:
        first = known[0]
        for other in known[1:]:
            if other.base_fingerprint != first.base_fingerprint:
                raise MergeError(
                    f"{other.folder} was trained on {other.base or 'another base'}, {first.folder} on "
                    f"{first.base or 'this base'}: their weights differ, so their deltas do not add up "
                    "(allow: base overrides)"
                )
        if opened.base is not None and opened.base.fingerprint() != first.base_fingerprint:
            raise MergeError(
                f"{first.folder} was trained on {first.base}, whose weights are not those of "
                f"{opened.base.folder} (allow: base overrides)"
            )
    names = {a.base: a for a in opened.adapters if a.base and not a.base_fingerprint}
    if len(names) > 1:
        (one, first), (two, other) = list(names.items())[:2]
        raise MergeError(
            f"{first.folder} names the base {one}, {other.folder} names {two}, and neither records its "
            "fingerprint (allow: base overrides)"
        )


def check_output(spec: MergeSpec, out: Path) -> None:
    """Refuse an output folder that would replace something no merge made, or an input."""
    target = out.resolve()
    inputs = [m.path for m in spec.models] + ([spec.base] if spec.base else [])
    for path in inputs:
        if path.resolve() == target or target in path.resolve().parents:
            raise MergeError(f"the output {out} is or contains the input {path}; choose another folder")
    if not out.exists() or "overwrite" in spec.allow:
        return
    if not out.is_dir():
        raise MergeError(f"the output {out} is a file; choose a folder")
    if any(out.iterdir()) and not (out / "merge.lock.json").is_file():
        raise MergeError(f"the output {out} holds files that no merge wrote (allow: overwrite replaces them)")
