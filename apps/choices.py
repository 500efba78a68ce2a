"""What a user names on the command line, MODEL, MODEL+ADAPTER or NAME=PATH, as folders on disk."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from studio.assets import find_model
from studio.errors import CheckpointError, ConfigError, TriptychError

if TYPE_CHECKING:
    from studio.types import Sample
    from studio.variants import Engine


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A model by name: the folder of its base, and the adapter on it if there is one."""

    name: str
    base: Path
    adapter: Path | None = None


def model_arguments(parser: argparse.ArgumentParser, nargs: str) -> None:
    """Declare the models of a command, as `read_choices` reads them."""
    parser.add_argument(
        "models",
        nargs=nargs,
        metavar="MODEL[+ADAPTER]",
        help="a model, a model with an adapter, or an adapter or run alone; NAME= in front names it",
    )


def data_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--data``: the sets that variants are asked."""
    parser.add_argument(
        "--data",
        action="append",
        required=True,
        metavar="D",
        help="a .jsonl file, a folder with test.jsonl, or a shipped name; may be given again",
    )


def asking_arguments(parser: argparse._ActionsContainer) -> None:
    """Declare which rows of the sets are asked, and how."""
    parser.add_argument("--split", default="test", help="which .jsonl of a folder (%(default)s)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N rows")
    parser.add_argument("--batch-size", type=int, default=16, help="rows at a time (%(default)s)")
    parser.add_argument("--max-new-tokens", type=int, default=48, help="longest answer (%(default)s)")


def memory_argument(parser: argparse.ArgumentParser) -> None:
    """Declare ``--memory``, which `memory_of` reads."""
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="what the weights of the base and of further models may take, as in 8GB; the one that was asked "
        "longest ago makes room",
    )


def memory_of(options: argparse.Namespace) -> int:
    """Return what ``--memory`` allows, in bytes; 0: any.

    Raises:
        ConfigError: it is no size.
    """
    from studio.training.memory import bytes_of

    return bytes_of(options.memory) if options.memory else 0


def read_choices(texts: Iterable[str]) -> list[Choice]:
    """Return what the texts name, with distinct names.

    Each is ``MODEL``, ``MODEL+ADAPTER`` or an adapter (or the folder of the run that made it) alone, whose
    note says what it belongs to; ``NAME=`` in front gives it a name. MODEL is a folder, a shipped name, or a
    public id in the local cache.

    Raises:
        CheckpointError: if a folder is missing or is neither model nor adapter.
    """
    choices: list[Choice] = []
    for text in texts:
        name, equals, rest = text.partition("=")
        named = bool(equals and name) and not Path(text).exists()
        choice = read_choice(rest if named else text)
        choices.append(replace(choice, name=name) if named else choice)
    return _distinct(choices)


def read_choice(text: str) -> Choice:
    """Return what one text without ``NAME=`` names; see `read_choices`."""
    whole = Path(text).expanduser()
    model, plus, adapter = text.rpartition("+")
    if plus and not whole.exists():
        folder = adapter_folder(Path(adapter).expanduser())
        if folder is None:
            raise CheckpointError(f"{adapter} is no adapter: there is no adapter_config.json in it")
        return Choice(name=_title(folder), base=_model(model), adapter=folder)
    folder = adapter_folder(whole) if whole.is_dir() else None
    if folder is not None:
        return Choice(name=_title(folder), base=base_of(folder), adapter=folder)
    if (whole / "model" / "config.json").is_file() and not (whole / "config.json").is_file():
        whole = whole / "model"  # the folder of a run that trained all the weights
        return Choice(name=_title(whole), base=whole)
    base = _model(text)
    return Choice(name=base.resolve().name, base=base)


def adapter_folder(folder: Path) -> Path | None:
    """Return the adapter that ``folder`` is or that the run in it made, or None."""
    for place in (folder, folder / "adapter"):
        if (place / "adapter_config.json").is_file():
            return place
    return None


def base_of(adapter: Path) -> Path:
    """Return the folder of the model that an adapter belongs to, from the note it carries.

    Raises:
        CheckpointError: if the note names no model that is here.
    """
    for file, key in (("triptych.json", "base"), ("adapter_config.json", "base_model_name_or_path")):
        try:
            named = json.loads((adapter / file).read_text(encoding="utf-8")).get(key)
        except (OSError, ValueError, AttributeError):
            continue
        if isinstance(named, str) and named:
            try:
                return find_model(named)
            except CheckpointError as error:
                raise CheckpointError(
                    f"{adapter} belongs to a base that is not here ({error}); name it as MODEL+{adapter}"
                ) from None
    raise CheckpointError(f"{adapter} does not say what it belongs to; name its base as MODEL+{adapter}")


def merge_of(choice: Choice) -> Path | None:
    """Return the folder of the merge that a choice is, or None where it is something else."""
    folder = choice.adapter or choice.base
    return folder if (folder / "merge.lock.json").is_file() else None


def one_base(choices: Sequence[Choice]) -> tuple[Path, dict[str, Path | None]]:
    """Return the base that the choices share, and each one's adapter or own folder, as an engine takes them.

    Raises:
        TriptychError: if adapters of different bases would have to stand beside each other.
    """
    with_adapter = [choice for choice in choices if choice.adapter]
    base = (with_adapter or list(choices))[0].base
    variants: dict[str, Path | None] = {}
    for choice in choices:
        same = choice.base.resolve() == base.resolve()
        if choice.adapter and not same:
            raise TriptychError(
                f"'{choice.name}' is an adapter on {choice.base}, but '{with_adapter[0].name}' is on {base}; "
                "adapters that are loaded together need the same base"
            )
        variants[choice.name] = choice.adapter or (None if same else choice.base)
    return base, variants


def check_limit(options: argparse.Namespace) -> None:
    """Raise `ConfigError` for a ``--limit`` that leaves no row."""
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit must be at least 1, not {options.limit}")


def read_sets(
    options: argparse.Namespace, paths: Mapping[str, Path], choices: Sequence[Choice]
) -> dict[str, Sequence[Sample]]:
    """Return the rows of the sets that are asked; all models have to take what is in them."""
    from studio.data import check_modalities, load_data
    from studio.families import detect

    data = {name: load_data(path, split=options.split)[: options.limit] for name, path in paths.items()}
    for base, _ in by_base(choices):
        for samples in data.values():
            check_modalities(samples, detect(base))
    return data


def fleet_of(choices: Sequence[Choice]) -> Fleet:
    """Return the choices as one, an engine for each base."""
    from studio.variants import Engine

    return Fleet([Engine(*one_base(group)) for _, group in by_base(choices)])


class Fleet:
    """Several engines asked as one; the names of their variants differ."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        """Take the engines in the order in which their variants are to be asked."""
        self._by_name = {name: engine for engine in engines for name in engine.names}

    @property
    def names(self) -> tuple[str, ...]:
        """The variants of all engines."""
        return tuple(self._by_name)

    def answers(self, name: str, samples: Sequence[Sample], **settings: Any) -> list[str]:
        """Return one variant's answers, in the samples' order."""
        return self._by_name[name].answers(name, samples, **settings)

    def log_probs(
        self, name: str, samples: Sequence[Sample], answers: Sequence[str], **settings: Any
    ) -> list[tuple[float, int]]:
        """Return how likely one variant finds given answers."""
        return self._by_name[name].log_probs(name, samples, answers, **settings)

    def engine(self, name: str) -> Engine:
        """Return the engine of one variant."""
        return self._by_name[name]

    def only(self, name: str) -> Fleet:
        """Return one variant by itself."""
        alone = Fleet([])
        alone._by_name = {name: self._by_name[name]}
        return alone

    def fingerprint(self, name: str) -> str:
        """Return a hash of all that decides one variant's answers."""
        return self._by_name[name].fingerprint(name)


def by_base(choices: Sequence[Choice]) -> list[tuple[Path, list[Choice]]]:
    """Return the choices in groups that share a base, in order of appearance."""
    groups: dict[Path, list[Choice]] = {}
    for choice in choices:
        groups.setdefault(choice.base.resolve(), []).append(choice)
    return [(group[0].base, group) for group in groups.values()]


def _model(name: str) -> Path:
    folder = find_model(name)
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is no model: there is no config.json in it")
    return folder


def _title(folder: Path) -> str:
    """Return a folder's name, or its run's where it has the name that every run gives."""
    place = folder.resolve()
    return place.parent.name if place.name in ("adapter", "model", "last", "best") else place.name


def _distinct(choices: list[Choice]) -> list[Choice]:
    """Return the choices with a number behind each name that stood before."""
    taken: set[str] = set()
    result = []
    for choice in choices:
        name, number = choice.name, 2
        while name in taken:
            name, number = f"{choice.name}-{number}", number + 1
        taken.add(name)
        result.append(replace(choice, name=name))
    return result
