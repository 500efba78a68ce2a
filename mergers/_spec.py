"""What to merge and how, from a YAML file, flags or a mapping; imports no torch.

    method: ties
    base: assets/models/nano-omni
    models:
      - {path: runs/handwriting/adapter, weight: 0.6}
      - {path: runs/textiles/adapter, weight: 0.4, density: 0.3}
    settings: {density: 0.2, preset: paper}
    rules:
      - {match: vision, freeze: true}
    output: adapter
    rank: lossless

Paths are relative to the working directory. All that is wrong is told at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml

from mergers._mergekit import OURS, Recipe, is_recipe, read
from mergers._rules import Rule, check_varying, problems, read_table
from studio.errors import ConfigError, unknown

T = TypeVar("T")
Output = Literal["auto", "adapter", "model"]
OUTPUTS = ("auto", "adapter", "model")
KEYS = {
    "method": "the merge method, a file in mergers/",
    "base": "the base model's folder",
    "models": "the models or adapters to merge: path, settings of its own, and statistics (a file)",
    "settings": "the method's settings for all models",
    "rules": "what holds for some tensors instead: match, and method, settings or freeze; first match wins",
    "weights_by_layer": "group -> one weight per model, or stack -> such a row per layer; or a JSON file",
    "protect": "whether methods that trim or drop leave embeddings and norms whole (yes, unless preset)",
    "output": "adapter, model, or auto: an adapter if all inputs are",
    "rank": "of adapters: lossless, a whole number, or the share of energy to keep (0.99)",
    "seed": "of the random numbers",
    "allow": "checks whose objection is overridden",
    "threads": "how many tensors are worked on at a time; 0 chooses",
    "shard_size": "largest weight file of a full model, as in 4GB",
    "max_ram": "memory that merging a full model may take, as in 1GB; 0 does not look",
    "selftest": "whether to load a merged full model and compare what runs with the base",
}


@dataclass(frozen=True, kw_only=True)
class Model:
    """One input: a folder with a full model or an adapter, and the settings that hold for it alone.

    ``statistics`` is a file made by the recipe of that name, or the folder that it wrote: what the model's
    own data says of its weights, for methods that ask.
    """

    path: Path
    settings: Mapping[str, Any] = field(default_factory=dict)
    statistics: Path | None = None

    @property
    def name(self) -> str:
        """How messages call it: the last two parts of its path."""
        return "/".join(self.path.parts[-2:])

    def to_mapping(self) -> dict[str, Any]:
        """Return the model as a merge file has it."""
        told = {"statistics": str(self.statistics)} if self.statistics else {}
        return {"path": str(self.path), **told, **self.settings}


@dataclass(frozen=True, kw_only=True)
class MergeSpec:
    """A merge as asked for; nothing of it has been read or checked against the folders yet."""

    method: str
    models: tuple[Model, ...]
    base: Path | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    rules: tuple[Rule, ...] = ()
    weights_by_layer: Mapping[str, list[Any]] = field(default_factory=dict)
    protect: bool | None = None
    output: Output = "auto"
    rank: int | float | Literal["lossless"] = "lossless"
    seed: int = 0
    allow: tuple[str, ...] = ()
    threads: int = 0
    shard_size: int = 5_000_000_000
    max_ram: int = 0
    selftest: bool = False
    recipe: Recipe | None = None

    @classmethod
    def from_yaml(
        cls, file: str | Path, *, rules: Sequence[Any] = (), preset: str | None = None, **changes: Any
    ) -> MergeSpec:
        """Read a merge file; ``changes`` replace what it says, ``rules`` come before its own.

        Raises `ConfigError` naming the file.
        """
        try:
            data = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
        except yaml.YAMLError as error:
            raise ConfigError(f"{file} is no valid YAML: {str(error).splitlines()[0]}") from None
        if not isinstance(data, dict):
            raise ConfigError(f"{file} holds no mapping of settings; needed are method and models")
        given = {key: value for key, value in changes.items() if value is not None}
        if (rules or preset) and is_recipe(data):
            word = "rules" if rules else "preset"
            raise ConfigError(f"{file} is a mergekit file, which has no {word}; say it by its parameters")
        if rules:
            given["rules"] = [*rules, *_listed(data.get("rules"))]
        if preset:
            settings = data.get("settings") or {}
            given["settings"] = {**settings, "preset": preset} if isinstance(settings, dict) else settings
        return cls.from_mapping({**data, **given}, where=str(file))

    @classmethod
    def from_flags(
        cls,
        *,
        method: str,
        models: Iterable[str],
        base: str | Path | None = None,
        settings: Mapping[str, Any] | Iterable[str] = (),
        **more: Any,
    ) -> MergeSpec:
        """Read a merge from a command line: ``models`` as PATH or PATH:WEIGHT, ``settings`` as KEY=VALUE.

        ``more`` are the other keys of a merge file (output, rank, seed, rules ...), as text or as values.
        """
        entries: list[dict[str, Any]] = []
        for text in models:
            path, colon, weight = str(text).rpartition(":")
            number = _number(weight) if colon and path else None
            entries.append({"path": str(text)} if number is None else {"path": path, "weight": number})
        if not isinstance(settings, Mapping):
            pairs = [str(item).partition("=") for item in settings]
            bad = [key for key, equals, _ in pairs if not equals]
            if bad:
                raise ConfigError(f"a setting is given as KEY=VALUE, not as '{bad[0]}'")
            settings = {key: value for key, _, value in pairs}
        data: dict[str, Any] = {
            "method": method,
            "base": base,
            "models": entries,
            "settings": {key: _value(value) for key, value in settings.items()},
        }
        data |= {key: _value(value) for key, value in more.items() if value is not None}
        return cls.from_mapping({k: v for k, v in data.items() if v is not None})

    @classmethod
    def from_mapping(cls, data: Mapping[str, Any], where: str = "merge") -> MergeSpec:
        """Read a merge from a mapping with the keys of a merge file, ours or mergekit's."""
        recipe = read(data, where) if is_recipe(data) else None
        if recipe is not None:
            data = {**recipe.mapping(), **{key: data[key] for key in OURS if key in data}}
        wrong = [unknown("key", key, KEYS) for key in data if key not in KEYS]
        wrong += [f"'{key}' is missing" for key in ("method", "models") if not data.get(key)]
        models = [_model(entry, wrong) for entry in _listed(data.get("models"))]
        settings = data.get("settings") or {}
        if not isinstance(settings, Mapping):
            wrong.append(f"settings must be a mapping, not {settings!r}")
            settings = {}
        values = [*settings.items(), *(item for model in models if model for item in model.settings.items())]
        wrong += [f"{key}: {problem}" for key, value in values for problem in problems(check_varying, value)]
        rules = [_told(Rule.from_mapping, entry, wrong) for entry in _listed(data.get("rules"))]
        table = _told(read_table, data.get("weights_by_layer") or {}, wrong)
        if data.get("protect") not in (None, True, False):
            wrong.append(f"protect must be true or false, not {data['protect']!r}")
        if data.get("output", "auto") not in OUTPUTS:
            wrong.append(unknown("output", str(data["output"]), OUTPUTS))
        rank = data.get("rank", "lossless")
        if rank != "lossless" and not (
            (type(rank) is int and rank >= 1) or (type(rank) is float and 0 < rank < 1)
        ):
            wrong.append(f"rank must be 'lossless', a whole number >= 1 or a share below 1, not {rank!r}")
        if not isinstance(data.get("selftest", False), bool):
            wrong.append(f"selftest must be true or false, not {data['selftest']!r}")
        for key in ("seed", "threads"):
            if type(data.get(key, 0)) is not int or data.get(key, 0) < 0:
                wrong.append(f"{key} must be a whole number >= 0, not {data[key]!r}")
        sizes = {key: _size(data.get(key, getattr(cls, key))) for key in ("shard_size", "max_ram")}
        for key, size in sizes.items():
            if size is None or (size == 0 and key == "shard_size"):
                wrong.append(f"{key} must be a size such as 4GB, not {data[key]!r}")
        if wrong:
            raise ConfigError(f"{where}: {'; '.join(wrong)}")
        return cls(
            method=str(data["method"]),
            models=tuple(model for model in models if model),
            base=Path(data["base"]) if data.get("base") else None,
            settings=dict(settings),
            rules=tuple(rule for rule in rules if rule),
            weights_by_layer=table or {},
            protect=data.get("protect"),
            output=data.get("output", "auto"),
            rank=rank,
            seed=data.get("seed", 0),
            allow=tuple(str(name) for name in _listed(data.get("allow"))),
            threads=data.get("threads", 0),
            shard_size=sizes["shard_size"] or cls.shard_size,
            max_ram=sizes["max_ram"] or 0,
            selftest=bool(data.get("selftest", False)),
            recipe=recipe,
        )

    def to_mapping(self) -> dict[str, Any]:
        """Return the merge as a mapping that `from_mapping` reads back to an equal one."""
        if self.recipe is not None:
            return self.recipe.to_mapping(
                {
                    "seed": self.seed,
                    "allow": list(self.allow),
                    "threads": self.threads,
                    "shard_size": self.shard_size,
                    "max_ram": self.max_ram,
                    **({"selftest": True} if self.selftest else {}),
                }
            )
        return {
            "method": self.method,
            **({"base": str(self.base)} if self.base else {}),
            "models": [model.to_mapping() for model in self.models],
            "settings": dict(self.settings),
            **({"rules": [rule.to_mapping() for rule in self.rules]} if self.rules else {}),
            **({"weights_by_layer": dict(self.weights_by_layer)} if self.weights_by_layer else {}),
            **({"protect": self.protect} if self.protect is not None else {}),
            "output": self.output,
            "rank": self.rank,
            "seed": self.seed,
            "allow": list(self.allow),
            "threads": self.threads,
            "shard_size": self.shard_size,
            "max_ram": self.max_ram,
            **({"selftest": True} if self.selftest else {}),
        }

    def to_yaml(self, head: str = "") -> str:
        """Return the merge as a merge file, without what is as it is anyway; ``head`` stands above it."""
        data, defaults = self.to_mapping(), MergeSpec(method="", models=()).to_mapping()
        short = {key: value for key, value in data.items() if key not in defaults or defaults[key] != value}
        return head + yaml.safe_dump(
            short, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
        )


def _model(entry: Any, wrong: list[str]) -> Model | None:
    if isinstance(entry, (str, Path)):
        entry = {"path": entry}
    if not isinstance(entry, Mapping) or not isinstance(entry.get("path"), (str, Path)):
        wrong.append(f"a model is a path or a mapping with a path, not {entry!r}")
        return None
    told = entry.get("statistics")
    if not isinstance(told, (str, Path, type(None))):
        wrong.append(f"statistics of a model are a file or a folder, not {told!r}")
        told = None
    settings = {k: v for k, v in entry.items() if k not in ("path", "statistics")}
    return Model(path=Path(entry["path"]), settings=settings, statistics=Path(told) if told else None)


def _told(read: Callable[[Any], T], value: Any, wrong: list[str]) -> T | None:
    """Return what reading gives, or None with the sentence that it raises among what is wrong."""
    try:
        return read(value)
    except ConfigError as error:
        wrong.append(str(error))
        return None


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]


def _value(value: Any) -> Any:
    return yaml.safe_load(value) if isinstance(value, str) else value


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _size(value: Any) -> int | None:
    units = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}
    text = str(value).strip().upper()
    digits = text.rstrip("KMGIB ")
    number, unit = _number(digits), text[len(digits) :].strip()
    return int(number * units[unit]) if number is not None and number >= 0 and unit in units else None
