"""What every test may use: tiny checkpoints, one thread, and no network."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_escapes: list[str] = []
_LOCAL = ("127.", "::1", "localhost", "0.0.0.0")


def _guard(event: str, arguments: tuple[Any, ...]) -> None:
    """Refuse to reach any host but this one; an audit hook sees what no library can hide."""
    if event in ("socket.connect", "socket.sendto") and isinstance(arguments[1], tuple):
        host = str(arguments[1][0])
    elif event == "socket.getaddrinfo":
        host = (
            os.fsdecode(arguments[0]) if isinstance(arguments[0], bytes) else str(arguments[0] or "localhost")
        )
    else:
        return
    if not host.startswith(_LOCAL):
        _escapes.append(f"{event} {host}")
        raise OSError(f"the tests run without a network, but something asked for {host} ({event})")


sys.addaudithook(_guard)


@pytest.fixture(autouse=True)
def no_network() -> Iterator[None]:
    """Fail a test that tried to reach another host, even if the code under test swallowed the error."""
    _escapes.clear()
    yield
    tried = list(_escapes)
    assert not tried, f"tried to reach the network: {tried}"


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Give each worker one torch thread: more on the same cores are slower."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all workers of this session share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def tiny(shared_folder: Path) -> Callable[[str], Path]:
    """Return a factory: a family's name -> its tiny checkpoint, made once per session; copy it to change it."""
    from studio.families import family
    from studio.files import atomic_folder

    def make(name: str) -> Path:
        folder = shared_folder / f"tiny-{name}"
        with open(shared_folder / f"{name}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                with atomic_folder(folder) as fresh:
                    family(name).tiny(fresh)
        return folder

    return make
