"""What a watch looks at: a folder of adapters, runs and models, or the models behind an endpoint."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from apps.choices import Choice, by_base, fleet_of, one_base, read_choice
from studio.errors import CheckpointError, TriptychError
from studio.types import Sample

if TYPE_CHECKING:
    from apps.endpoint import Endpoint
    from apps.evaluate import Answerer

_DEEP = 3  # folders below the watched one that are looked into


class Target(Protocol):
    """Something with variants that change."""

    told: bool
    """Whether a version is known before it is asked; what an endpoint serves shows in its answers alone."""

    def versions(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the fingerprint of each variant by name, and a sentence for each that cannot be read."""

    def answerer(self, names: Iterable[str]) -> Answerer:
        """Return what answers as these variants."""


class FolderTarget:
    """The adapters, runs and models in a folder, each under its path in it."""

    told = True

    def __init__(self, folder: Path, base: Path | None = None) -> None:
        """Watch a folder; ``base`` is that of adapters which do not say theirs.

        Raises:
            CheckpointError: there is no such folder.
        """
        if not folder.is_dir():
            raise CheckpointError(
                f"{folder} is no folder; name one with adapters or runs, or http://HOST:PORT"
            )
        self.folder, self._base = folder, base
        self._found: dict[str, Choice] = {}

    @property
    def bases(self) -> list[Path]:
        """The models that the variants of the last look stand on."""
        return [base for base, _ in by_base(list(self._found.values()))]

    def versions(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return what is there now; a folder that is being written is not there yet."""
        from studio.variants import Engine

        prints: dict[str, str] = {}
        failed: dict[str, str] = {}
        self._found = {}
        for place in found_in(self.folder):
            name = place.relative_to(self.folder).as_posix() if place != self.folder else place.resolve().name
            try:
                choice = replace(self._read(place), name=name)
                prints[name] = Engine(*one_base([choice])).fingerprint(name)
                self._found[name] = choice
            except (TriptychError, OSError) as error:
                failed[name] = str(error)
        return prints, failed

    def answerer(self, names: Iterable[str]) -> Answerer:
        """Return an engine for each base."""
        return fleet_of([self._found[name] for name in names])

    def _read(self, place: Path) -> Choice:
        adapter = next((p for p in (place, place / "adapter") if (p / "adapter_config.json").is_file()), None)
        if self._base is not None and adapter is not None:
            return Choice(name="", base=self._base, adapter=adapter)
        return read_choice(str(place))


class EndpointTarget:
    """The models behind an OpenAI-compatible service."""

    told = False

    def __init__(self, url: str, settings: Mapping[str, Any]) -> None:
        """Watch a service; the settings are those of `apps.endpoint.Endpoint`."""
        self._url, self._settings = url, dict(settings)
        self._endpoint: Endpoint | None = None

    def versions(self) -> tuple[dict[str, str], dict[str, str]]:
        """Return the models that are served now; that nobody answers is what is wrong with the endpoint."""
        from apps.endpoint import Endpoint, EndpointError

        try:
            self._endpoint = Endpoint(self._url, **self._settings)
        except EndpointError as error:
            return {}, {"endpoint": str(error)}
        return dict.fromkeys(self._endpoint.names, ""), {}

    def answerer(self, names: Iterable[str]) -> Answerer:
        """Return the service, asked for these models alone."""
        assert self._endpoint is not None
        return _Some(self._endpoint, list(names))


class _Some:
    """An endpoint that is asked for some of its models."""

    def __init__(self, endpoint: Endpoint, names: Sequence[str]) -> None:
        self._endpoint, self.names = endpoint, tuple(names)

    def answers(self, name: str, samples: Sequence[Sample], **settings: Any) -> list[str]:
        return self._endpoint.answers(name, samples, **settings)

    def fingerprint(self, name: str) -> str:
        return self._endpoint.fingerprint(name)

    def log_probs(
        self, name: str, samples: Sequence[Sample], answers: Sequence[str], **settings: Any
    ) -> list[tuple[float, int]]:
        return self._endpoint.log_probs(name, samples, answers, **settings)


def found_in(folder: Path, deep: int = _DEEP) -> list[Path]:
    """Return the adapters, runs and models that a folder is or holds, in the order of their names.

    What lies within one of them belongs to it; hidden folders, which writers use, are passed over.
    """
    if any((folder / part / "adapter_config.json").is_file() for part in (".", "adapter")):
        return [folder]
    if any((folder / part / "config.json").is_file() for part in (".", "model")):
        return [folder]
    if not deep:
        return []
    below = sorted(one for one in folder.iterdir() if one.is_dir() and not one.name.startswith("."))
    return [place for one in below for place in found_in(one, deep - 1)]
