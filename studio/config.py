"""One frozen dataclass is a run's configuration, with four faces: YAML, ``key=value``, a form and run.json.

    @dataclass(frozen=True, kw_only=True)
    class Config:
        rate: float = field(default=1e-4, metadata={"help": "peak learning rate"})

A field's type may be int, float, bool, str, Path, Literal, ``tuple[X, ...]``, ``dict[str, X]``, ``X | None``,
Any, or another such dataclass all of whose fields have defaults: a group of settings. The metadata key
``help`` says what the field means, ``choices`` may list the allowed values. Later sources win: defaults,
preset, file, overrides. A dotted key (``towers.vision=frozen``) changes one entry of a dict field or group; a
plain key replaces the whole dict, and the fields that it names of a group. All that is wrong is told at
once. Paths are relative to the working directory.
"""

from __future__ import annotations

import dataclasses
import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, TypeVar

from studio._convert import Wrong, convert, parse, type_name
from studio.errors import ConfigError, UnknownName, unknown

__all__ = [
    "Setting",
    "flatten",
    "from_dict",
    "help_text",
    "load",
    "settings",
    "to_dict",
    "to_yaml",
    "type_name",
]

T = TypeVar("T")
_NOTHING: Mapping[str, Mapping[str, Any]] = {}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a form or a help text needs to know of one field; ``default`` is MISSING if it must be given."""

    name: str
    hint: Any
    type: str
    default: Any
    help: str
    choices: tuple[Any, ...]

    @property
    def required(self) -> bool:
        """Whether the field has no default."""
        return self.default is MISSING

    @property
    def group(self) -> list[Setting]:
        """The settings of a group, named ``group.name``; none for a plain field."""
        if not dataclasses.is_dataclass(self.hint) or not isinstance(self.hint, type):
            return []
        return [dataclasses.replace(own, name=f"{self.name}.{own.name}") for own in settings(self.hint)]


def settings(config: type[Any]) -> list[Setting]:
    """Return the fields of a configuration class in order."""
    hints = typing.get_type_hints(config)
    found = []
    for field in dataclasses.fields(config):
        default = field.default if field.default_factory is MISSING else field.default_factory()
        found.append(
            Setting(
                name=field.name,
                hint=hints[field.name],
                type=type_name(hints[field.name]),
                default=default,
                help=str(field.metadata.get("help", "")),
                choices=tuple(field.metadata.get("choices", ())),
            )
        )
    return found


def load(
    config: type[T],
    file: Path | str | None = None,
    overrides: Sequence[str] = (),
    preset: str | None = None,
    presets: Mapping[str, Mapping[str, Any]] = _NOTHING,
) -> T:
    """Build a configuration from its defaults, a preset, a file and ``key=value`` overrides.

    ``file`` is a YAML or JSON mapping, a ``run.json``, or a run folder with one.

    Raises:
        ConfigError: with everything that is wrong: unknown keys, wrong types, missing values, bad syntax.
        UnknownName: if there is no such preset.
    """
    if preset is not None and preset not in presets:
        raise UnknownName("preset", preset, presets)
    values: dict[str, Any] = {}
    errors: list[str] = []
    known = settings(config)
    if preset is not None:
        _absorb(known, values, presets[preset].items(), f"preset '{preset}'", errors)
    if file is not None:
        where, pairs = _read(Path(file), errors)
        _absorb(known, values, pairs.items(), where, errors)
    _absorb(known, values, _split(overrides, errors), "", errors, typed=True)
    return _build(config, known, values, errors)


def from_dict(config: type[T], data: Mapping[str, Any]) -> T:
    """Build a configuration from what `to_dict` returned, or from any mapping of settings.

    Raises:
        ConfigError: with everything that is wrong.
    """
    values: dict[str, Any] = {}
    errors: list[str] = []
    known = settings(config)
    _absorb(known, values, data.items(), "", errors)
    return _build(config, known, values, errors)


def to_dict(config: Any) -> dict[str, Any]:
    """Return a configuration as plain JSON values: paths as text, tuples as lists."""
    return {field.name: _plain(getattr(config, field.name)) for field in dataclasses.fields(config)}


def flatten(values: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Return nested settings under dotted names, as they are typed: ``{"adapter.r": 16}``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{above}{key}"
        flat |= flatten(value, f"{name}.") if isinstance(value, Mapping) and value else {name: value}
    return flat


def to_yaml(config: Any) -> str:
    """Return a configuration as YAML with each field's help as a comment; `load` reads it back unchanged."""
    import yaml

    lines = []
    for setting in settings(type(config)):
        if setting.help:
            lines.append(f"# {setting.help}\n")
        value = {setting.name: _plain(getattr(config, setting.name))}
        lines.append(yaml.safe_dump(value, allow_unicode=True, sort_keys=False))
    return "".join(lines)


def help_text(config: type[Any]) -> str:
    """Return one line per field: name, type, default and meaning, in columns."""
    rows = []
    for setting in [own for whole in settings(config) for own in whole.group or [whole]]:
        default = "(required)" if setting.required else _short(setting.default)
        allowed = f" [{', '.join(map(str, setting.choices))}]" if setting.choices else ""
        rows.append((setting.name, setting.type, default, setting.help + allowed))
    widths = [min(max((len(row[i]) for row in rows), default=0), 28) for i in range(3)]
    lines = []
    for row in rows:
        cells = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False))
        lines.append(f"  {cells}  {row[3]}".rstrip())
    return "\n".join(lines)


def _absorb(
    known: Sequence[Setting],
    values: dict[str, Any],
    pairs: Iterable[tuple[Any, Any]],
    where: str,
    errors: list[str],
    *,
    typed: bool = False,
) -> None:
    """Convert ``pairs`` into ``values``; what is wrong goes to ``errors`` with its place.

    ``typed`` says that a person typed the values: where a field takes anything, they are read as YAML.
    """
    table = {setting.name: setting for setting in known}
    prefix = f"{where}: " if where else ""
    for key, raw in pairs:
        name, _, rest = str(key).partition(".")
        setting = table.get(name)
        if setting is None:
            errors.append(prefix + _unknown(str(key), known))
            continue
        try:
            if typed and _takes_anything(setting.hint, rest):
                raw = parse(raw)
            value = _value(setting, values, rest, raw)
            _check_choices(setting, value)
        except Wrong as wrong:
            errors.append(f"{prefix}{key} {wrong}")
            values.setdefault(name, None)  # given, if wrongly: it is not also missing
            continue
        values[name] = value


def _unknown(key: str, known: Sequence[Setting]) -> str:
    """Return the sentence for an unknown setting; one that stands in a group is told by its whole name."""
    for setting in known:
        for own in setting.group:
            if own.name == f"{setting.name}.{key}":
                return f"unknown setting '{key}'; it is called '{own.name}'"
    return unknown("setting", key, [setting.name for setting in known])


def _takes_anything(hint: Any, key: str) -> bool:
    """Say whether what stands at a dotted key below a field may be of any type."""
    for step in key.split(".") if key else ():
        if dataclasses.is_dataclass(hint):
            hint = typing.get_type_hints(hint).get(step)
        elif Any in typing.get_args(hint):
            return True
    return hint is Any


def _value(setting: Setting, values: Mapping[str, Any], key: str, raw: Any) -> Any:
    """Return a field's value from ``raw``, which stands for the entry at the dotted ``key`` if there is one.

    A dict field with an entry replaced is typed as a whole.
    """
    start = values.get(setting.name, setting.default)
    if setting.group:
        return _in_group(setting, start, key, raw)
    if not key:
        return convert(setting.hint, raw)
    if not isinstance(start, Mapping):
        if start is not None and start is not MISSING:
            raise Wrong(f"has no entries: '{setting.name}' is of type {setting.type}")
        start = {}
    *path, last = key.split(".")
    whole = _copy(start)
    inner = whole
    for step in path:
        inner = inner.setdefault(step, {})
        if not isinstance(inner, dict):
            raise Wrong(f"has no entries: '{step}' is a plain value")
    inner[last] = raw
    result = convert(setting.hint, whole)
    if not isinstance(result, dict):
        raise Wrong(f"has no entries: '{setting.name}' is of type {setting.type}")
    return result


def _in_group(setting: Setting, start: Any, key: str, raw: Any) -> Any:
    """Return a group with the field at the dotted ``key`` replaced, or all those that a mapping names."""
    start = setting.default if start is None else start
    if not key:
        given = vars(convert(setting.hint, raw)) if isinstance(raw, setting.hint) else convert(dict, raw)
        whole = dict(vars(start)) | given
        return convert(setting.hint, whole)
    name, _, rest = key.partition(".")
    fields = {own.name: own for own in settings(setting.hint)}
    if name not in fields:
        raise Wrong(f"is an {unknown('setting', name, fields)}")
    value = _value(fields[name], vars(start), rest, raw)
    _check_choices(fields[name], value)
    return dataclasses.replace(start, **{name: value})


def _copy(value: Any) -> Any:
    """Return a copy of nested mappings and sequences; leaves are shared."""
    if isinstance(value, Mapping):
        return {key: _copy(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_copy(inner) for inner in value]
    return value


def _check_choices(setting: Setting, value: Any) -> None:
    """Hold a value, or each entry of a tuple, against the field's list of choices."""
    if not setting.choices or value is None:
        return
    for one in value if isinstance(value, tuple) else (value,):
        if one not in setting.choices:
            raise Wrong("has " + unknown("value", str(one), map(str, setting.choices)))


def _build(config: type[T], known: Sequence[Setting], values: Mapping[str, Any], errors: list[str]) -> T:
    """Make the configuration, or raise one error with all that is wrong."""
    for setting in known:
        if setting.required and setting.name not in values:
            errors.append(f"{setting.name} must be given: {setting.help or setting.type}")
    if len(errors) == 1:
        raise ConfigError(errors[0])
    if errors:
        raise ConfigError(f"{len(errors)} settings are wrong:" + "".join(f"\n  {error}" for error in errors))
    return config(**values)


def _split(overrides: Sequence[str], errors: list[str]) -> list[tuple[str, str]]:
    """Return ``key=value`` arguments as pairs."""
    pairs = []
    for text in overrides:
        key, equals, value = text.partition("=")
        if equals and key.strip():
            pairs.append((key.strip(), value))
        else:
            errors.append(f"'{text}' is not of the form key=value")
    return pairs


def _read(file: Path, errors: list[str]) -> tuple[str, dict[str, Any]]:
    """Return a file's name and its settings; a run folder or run.json gives the settings of that run."""
    path = file / "run.json" if file.is_dir() else file
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        errors.append(f"cannot read the configuration {path}: {reason}")
        return str(path), {}
    try:
        data = json.loads(text) if path.suffix == ".json" else _yaml(text, path, errors)
    except json.JSONDecodeError as error:
        errors.append(f"{path}:{error.lineno}: not valid JSON: {error.msg}")
        return str(path), {}
    if path.name == "run.json" and isinstance(data, dict) and isinstance(data.get("config"), dict):
        data = data["config"]
    if not isinstance(data, dict):
        errors.append(f"{path}: a mapping of settings is expected, not {type(data).__name__}")
        return str(path), {}
    return str(path), data


def _yaml(text: str, path: Path, errors: list[str]) -> Any:
    """Return parsed YAML; a key that stands twice is an error with its line, not a silent choice."""
    import yaml

    try:
        root = yaml.compose(text, yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        errors.append(f"{path}{line}: not valid YAML: {getattr(error, 'problem', None) or error}")
        return {}
    seen: set[str] = set()
    for key, _ in root.value if isinstance(root, yaml.MappingNode) else ():
        if str(key.value) in seen:
            errors.append(f"{path}:{key.start_mark.line + 1}: '{key.value}' stands twice")
        seen.add(str(key.value))
    return {} if data is None else data


def _plain(value: Any) -> Any:
    """Return a value as JSON would hold it."""
    if isinstance(value, Path):
        return value.as_posix()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value


def _short(value: Any) -> str:
    """Return a default value as a user would type it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return json.dumps(_plain(value)) if isinstance(value, dict | tuple | list) else str(value)
