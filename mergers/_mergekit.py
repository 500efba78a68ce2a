"""mergekit's merge files, read as they are: models, slices or modules, with parameters at every level.

    slices:
      - sources: [{model: a, layer_range: [0, 16]}]
      - sources: [{model: b, layer_range: [8, 24]}]
    merge_method: passthrough
    dtype: bfloat16

A model is a folder, a public id in the local cache, or MODEL+ADAPTER. Our own keys ``seed``, ``allow``,
``threads``, ``shard_size`` and ``max_ram`` may stand beside mergekit's. All that is wrong is told at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mergers._mergekit_chat import read_template
from mergers._mergekit_tokens import Wanted, read_wanted
from mergers._mergekit_values import METHODS, check_parameters
from studio import plugins
from studio.errors import CheckpointError, ConfigError, unknown

KEYS = (
    "merge_method", "base_model", "models", "slices", "modules", "parameters", "dtype", "out_dtype",
    "tokenizer_source", "tokenizer", "chat_template", "name",
)  # fmt: skip
#: Our keys that may stand in such a file.
OURS = ("seed", "allow", "threads", "shard_size", "max_ram", "selftest")
#: mergekit's names of types, as safetensors calls them.
TYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32", "float64": "F64"}


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A model as the file names it: a folder, and an adapter that is to be baked into it, if any."""

    model: Path
    adapter: Path | None = None

    @property
    def path(self) -> Path:
        """The folder that makes it different from its base."""
        return self.adapter or self.model

    def __str__(self) -> str:
        """Return it as one may write it."""
        return f"{self.model}+{self.adapter}" if self.adapter else str(self.model)


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What a slice takes from one model: the layers ``begin <= i < end``, or all of them."""

    model: Reference
    layers: tuple[int, int] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Layers of the output, and the models that each of them is merged from."""

    sources: tuple[Taken, ...]
    base: Reference | None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def inputs(self) -> tuple[Taken, ...]:
        """The sources that are not the base."""
        return tuple(taken for taken in self.sources if taken.model != self.base)


@dataclass(frozen=True, kw_only=True)
class Module:
    """A part of the model, "" for all of it, with its own slices; ``whole`` if one of them has all layers."""

    name: str
    slices: tuple[Slice, ...]
    whole: bool
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A mergekit file, read and checked as far as one can without the models; ``given`` is what it says."""

    given: Mapping[str, Any]
    method: str
    base: Reference | None
    modules: tuple[Module, ...]
    parameters: Mapping[str, Any]
    stored: str = ""
    tokenizer: Wanted = field(default_factory=Wanted)
    chat: str = ""

    @property
    def models(self) -> tuple[Reference, ...]:
        """The models that go in, each once, without a base that only differences are taken from."""
        plain = [s.sources if _takes_base(self.method) else s.inputs for m in self.modules for s in m.slices]
        found = dict.fromkeys(taken.model for sources in plain for taken in sources)
        return tuple(found) or ((self.base,) if self.base else ())

    def to_mapping(self, own: Mapping[str, Any]) -> dict[str, Any]:
        """Return what the file says, with our own keys as they are now."""
        return {**self.given, **own}

    def mapping(self) -> dict[str, Any]:
        """Return method, base and models as a merge file of ours has them."""
        base = self.base or self.models[0]
        return {
            "method": self.method,
            "base": str(base.model),
            "models": [str(reference.path) for reference in self.models],
            "output": "model",
        }


def is_recipe(data: Mapping[str, Any]) -> bool:
    """Return whether a merge file is written in mergekit's words."""
    listed = data.get("models")
    entries = listed if isinstance(listed, list) else []
    return any(key in data for key in ("merge_method", "base_model", "modules", "tokenizer_source")) or any(
        isinstance(entry, Mapping) and "model" in entry for entry in entries
    )


def read(data: Mapping[str, Any], where: str) -> Recipe:
    """Read a mergekit file; `ConfigError` naming the file and everything that is wrong."""
    renamed = {"method": "merge_method", "base": "base_model"}  # given on the command line
    given = dict(data)
    for ours, theirs in renamed.items():
        if ours in given:
            given[theirs] = str(given.pop(ours))
    reader = _Reader()
    recipe = reader.recipe(given)
    if reader.wrong or recipe is None:
        raise ConfigError(f"{where}: {'; '.join(reader.wrong)}")
    return recipe


def _takes_base(method: str) -> bool:
    """Return whether a method mixes the base itself in, as one of the models."""
    return METHODS[method].takes_base


class _Reader:
    """Reads a file's parts and collects what is wrong with them."""

    def __init__(self) -> None:
        self.wrong: list[str] = []

    def recipe(self, given: Mapping[str, Any]) -> Recipe | None:
        """Return the whole file."""
        self.wrong += [unknown("key", str(k), [*KEYS, *OURS]) for k in given if k not in (*KEYS, *OURS)]
        method = given.get("merge_method")
        if not isinstance(method, str):
            self.wrong.append("'merge_method' is missing")
        elif method not in METHODS:
            own = plugins.names("methods")
            hint = f" (as a method of ours it is written method: {method})" if method in own else ""
            self.wrong.append(unknown("merge_method", method, METHODS) + hint)
        shapes = [key for key in ("models", "slices", "modules") if given.get(key)]
        if len(shapes) != 1:
            found = " and ".join(shapes) or "none"
            self.wrong.append(f"exactly one of models, slices and modules must be there, not {found}")
        base = self._reference(given["base_model"], "base_model") if given.get("base_model") else None
        if base is not None and base.adapter is not None:
            self.wrong.append(f"base_model {base} carries an adapter; bake it first and name the result")
        if self.wrong:
            return None
        assert isinstance(method, str)
        if shapes == ["modules"]:
            modules = tuple(
                self._module(str(name), entry, method, base) for name, entry in _items(given["modules"])
            )
        else:
            modules = (self._module("", {shapes[0]: given[shapes[0]]}, method, base),)
        recipe = Recipe(
            given={key: value for key, value in given.items() if key not in OURS},
            method=method,
            base=base,
            modules=modules,
            parameters=self._parameters(given.get("parameters"), method, "parameters"),
            stored=self._stored(given),
            tokenizer=read_wanted(
                given.get("tokenizer_source"), given.get("tokenizer"), self._reference, self.wrong
            ),
            chat=self._chat(given.get("chat_template")),
        )
        return None if self.wrong else recipe

    def _module(self, name: str, entry: Any, method: str, base: Reference | None) -> Module:
        where = f"modules.{name}." if name else ""
        entry = entry if isinstance(entry, Mapping) else {}
        self.wrong += [
            unknown(f"key of modules.{name}", str(k), ("models", "slices", "parameters"))
            for k in entry
            if k not in ("models", "slices", "parameters")
        ]
        if bool(entry.get("models")) == bool(entry.get("slices")):
            self.wrong.append(f"modules.{name} must have either models or slices")
        slices: list[Slice] = []
        if entry.get("models"):
            taken = [
                self._taken(one, f"{where}models[{i}]", method, ranged=False)
                for i, one in enumerate(_list(entry["models"]))
            ]
            if base is not None and all(t.model != base for t in taken):
                taken.append(Taken(model=base))
            slices = [Slice(sources=tuple(taken), base=base)]
        for i, one in enumerate(_list(entry.get("slices"))):
            slices.append(self._slice(one, f"{where}slices[{i}]", method, base))
        for i, part in enumerate(slices):
            label = f"{where}models" if entry.get("models") else f"{where}slices[{i}]"
            self._check_slice(part, method, label)
        return Module(
            name=name,
            slices=tuple(slices),
            whole=bool(entry.get("models")),
            parameters=self._parameters(entry.get("parameters"), method, f"{where}parameters"),
        )

    def _slice(self, entry: Any, where: str, method: str, base: Reference | None) -> Slice:
        entry = entry if isinstance(entry, Mapping) else {}
        known = ("sources", "base_model", "parameters", "residual_weight")
        self.wrong += [unknown(f"key of {where}", str(k), known) for k in entry if k not in known]
        if entry.get("residual_weight") is not None:
            self.wrong.append(f"{where}: residual_weight is not supported, as mergekit ignores it, too")
        if not _list(entry.get("sources")):
            self.wrong.append(f"{where} has no sources")
        own = entry.get("base_model")
        return Slice(
            sources=tuple(
                self._taken(one, f"{where}.sources[{i}]", method, ranged=True)
                for i, one in enumerate(_list(entry.get("sources")))
            ),
            base=self._reference(own, f"{where}.base_model") if own else base,
            parameters=self._parameters(entry.get("parameters"), method, f"{where}.parameters"),
        )

    def _taken(self, entry: Any, where: str, method: str, *, ranged: bool) -> Taken:
        entry = entry if isinstance(entry, Mapping) else {"model": entry}
        known = ("model", "parameters", *(("layer_range",) if ranged else ()))
        self.wrong += [unknown(f"key of {where}", str(k), known) for k in entry if k not in known]
        layers = entry.get("layer_range")
        if ranged and not (
            isinstance(layers, list)
            and len(layers) == 2
            and all(type(n) is int for n in layers)
            and 0 <= layers[0] < layers[1]
        ):
            self.wrong.append(f"{where}: layer_range must be [first, end] with first < end, not {layers!r}")
            layers = [0, 1]
        return Taken(
            model=self._reference(entry.get("model"), where),
            layers=(layers[0], layers[1]) if ranged else None,
            parameters=self._parameters(entry.get("parameters"), method, f"{where}.parameters"),
        )

    def _reference(self, value: Any, where: str) -> Reference:
        model, adapter = value, None
        if isinstance(value, Mapping):
            model, adapter = value.get("model"), value.get("lora")
        parts = [part.get("path") if isinstance(part, Mapping) else part for part in (model, adapter)]
        if isinstance(parts[0], str) and parts[1] is None and not Path(parts[0]).is_dir():
            before, plus, after = parts[0].partition("+")
            parts = [before, after if plus else None]
        if not isinstance(parts[0], str) or not parts[0] or not isinstance(parts[1], (str, type(None))):
            self.wrong.append(f"{where}: a model is a folder or MODEL+ADAPTER, not {value!r}")
            return Reference(model=Path())
        for part in parts:
            if part and "@" in part and not Path(part).is_dir():
                self.wrong.append(f"{where}: '{part}' asks for a revision; give the folder that holds it")
        return Reference(model=folder_of(parts[0]), adapter=Path(parts[1]) if parts[1] else None)

    def _parameters(self, value: Any, method: str, where: str) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            self.wrong.append(f"{where} must be a mapping, not {value!r}")
            return {}
        self.wrong += check_parameters(method, value, where)
        return dict(value)

    def _check_slice(self, part: Slice, method: str, where: str) -> None:
        seen = [taken.model for taken in part.sources]
        if len(set(seen)) != len(seen):
            double = next(str(model) for model in seen if seen.count(model) > 1)
            self.wrong.append(f"{where} names {double} twice; a model takes part once")
        lengths = {taken.layers[1] - taken.layers[0] for taken in part.sources if taken.layers}
        if len(lengths) > 1:
            self.wrong.append(
                f"{where}: all sources must have the same number of layers, not {sorted(lengths)}"
            )
        if self.wrong:
            return
        rule = METHODS[method]
        if rule.base == "needed" and part.base is None:
            self.wrong.append(f"merge_method {method} needs a base_model")
        elif rule.base != "ignored" and part.base is not None and part.base not in seen:
            self.wrong.append(
                f"{where} takes nothing from the base_model {part.base}; {method} needs it there"
            )
        count = len(part.sources) if rule.takes_base else len(part.inputs)
        low, high = rule.models
        if not low <= count <= high:
            wanted = str(low) if low == high else f"at least {low}" if count < low else f"at most {high}"
            kind = "models" if rule.takes_base else "models beside the base"
            self.wrong.append(f"{where}: {method} merges {wanted} {kind}, not {count}")

    def _stored(self, given: Mapping[str, Any]) -> str:
        for key in ("dtype", "out_dtype"):
            value = str(given.get(key) or "float32").removeprefix("torch.")
            if value not in TYPES:
                self.wrong.append(unknown(key, value, TYPES))
        name = str(given.get("out_dtype") or given.get("dtype") or "").removeprefix("torch.")
        return TYPES.get(name, "")

    def _chat(self, value: Any) -> str:
        try:
            return read_template(value) if value else ""
        except ConfigError as error:
            self.wrong.append(str(error))
            return ""


def folder_of(text: str) -> Path:
    """Return the folder of a model: as given, or of a public id that is in the local cache."""
    if not Path(text).expanduser().is_dir():
        from studio.assets import find_model

        try:
            return find_model(text)
        except CheckpointError:
            pass  # opening it says what is wrong
    return Path(text).expanduser()


def _list(value: Any) -> Sequence[Any]:
    return value if isinstance(value, list) else []


def _items(value: Any) -> Iterator[tuple[Any, Any]]:
    return iter(value.items() if isinstance(value, Mapping) else ())
