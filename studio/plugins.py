"""The file name is the registry: what stands in a room is found by looking, not by a list.

`mergers/ties.py` is the merge method ``ties``, `recipes/sft.py` the recipe ``sft``, and so on. Files whose
name starts with an underscore are private to their room. Packages outside of this one join by entry points
of the group ``triptych.<room>`` that name a module with the same contract:

    [project.entry-points."triptych.methods"]
    my_method = "my_package.my_method"

Listing and summing up import nothing but the standard library; only `load` imports what it is asked for.
"""

from __future__ import annotations

import ast
import importlib
import importlib.util
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType

from studio.errors import TriptychError, UnknownName

ROOMS = {
    "recipes": "recipes",
    "methods": "mergers",
    "families": "studio.families",
    "metrics": "studio.metrics",
    "formats": "studio.data.formats",
    "augment": "studio.augment",
    "perturb": "studio.perturb",
    "steps": "studio.data.steps",
}
KINDS = {
    "recipes": "recipe",
    "methods": "merge method",
    "families": "family",
    "metrics": "metric",
    "formats": "format",
    "augment": "augmentation step",
    "perturb": "perturbation",
    "steps": "step",
}


def names(room: str) -> list[str]:
    """Return the sorted names in a room: its own files and what other packages bring by entry points.

    Raises:
        UnknownName: if there is no such room.
    """
    return sorted({*_own(room), *_outside(room)})


def canonical(room: str, name: str) -> str:
    """Return ``name`` as the room spells it; a dash may stand for an underscore.

    Raises:
        UnknownName: if nothing in the room has this name; the sentence offers the nearest match.
    """
    spellings = (name, name.replace("-", "_"))
    own = _own(room)  # first: reading entry points takes milliseconds, and a merge asks tensor by tensor
    found = next((s for s in spellings if s in own), None)
    found = found or next((s for s in spellings if s in _outside(room)), None)
    if found is not None:
        return found
    raise UnknownName(KINDS[room], name, names(room))


def load(room: str, name: str) -> ModuleType:
    """Return the module that stands behind ``name``; a dash may stand for an underscore.

    Raises:
        UnknownName: if nothing in the room has this name; the sentence offers the nearest match.
        TriptychError: if the module needs a package that is not installed.
    """
    wanted = canonical(room, name)
    try:
        if wanted in _own(room):
            return importlib.import_module(f"{ROOMS[room]}.{wanted}")
        return importlib.import_module(_outside(room)[wanted].module)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if not package or package in {"studio", "mergers", "recipes", "apps"}:
            raise
        raise TriptychError(
            f"{KINDS[room]} '{wanted}' needs the package '{package}', which is not installed"
        ) from None


def summary(room: str, name: str) -> str:
    """Return the first line of the docstring behind ``name``, read from its source without importing it.

    Raises:
        UnknownName: if nothing in the room has this name.
    """
    own = _own(room)
    if name in own:
        return first_line(own[name])
    outside = _outside(room)
    if name in outside:
        source = _source(outside[name].module)
        return first_line(source) if source else f"from {outside[name].module}"
    raise UnknownName(KINDS[room], name, names(room))


def mentioning(room: str, word: str) -> list[str]:
    """Return the names in a room whose source has ``word`` in quotes, so that only these need importing.

    A module whose source is not found is among them.
    """
    files = {name: _source(point.module) for name, point in _outside(room).items()} | dict(_own(room))
    quoted = (f'"{word}"', f"'{word}'")

    def has(file: Path | None) -> bool:
        text = file.read_text(encoding="utf-8") if file else quoted[0]
        return any(each in text for each in quoted)

    return sorted(name for name, file in files.items() if has(file))


def _own(room: str) -> dict[str, Path]:
    """Return the room's own files by name."""
    if room not in ROOMS:
        raise UnknownName("room", room, ROOMS)
    top, *rest = ROOMS[room].split(".")  # the spec of a room inside a room would import the outer one
    spec = importlib.util.find_spec(top)
    folders = spec.submodule_search_locations if spec else None
    files = (file for folder in folders or () for file in Path(folder, *rest).glob("*.py"))
    return {file.stem: file for file in files if not file.stem.startswith("_")}


def _outside(room: str) -> dict[str, EntryPoint]:
    """Return the entry points that join the room by name; a file of our own is never replaced."""
    return {point.name: point for point in entry_points(group=f"triptych.{room}")}


def _source(module: str) -> Path | None:
    """Return the source file of a module, found from its top-level package without importing anything."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None:
        return None
    if not rest:
        return Path(spec.origin) if spec.origin else None
    for folder in spec.submodule_search_locations or ():
        stem = Path(folder, *rest)
        for file in (stem.with_suffix(".py"), stem / "__init__.py"):
            if file.is_file():
                return file
    return None


def first_line(file: Path) -> str:
    """Return the first line of a source file's docstring, or the empty string."""
    try:
        text = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8")))
    except SyntaxError as error:
        return f"(does not parse: {error.msg}, line {error.lineno})"
    return (text or "").partition("\n")[0].strip()
