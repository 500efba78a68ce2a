"""What every test may use: tiny checkpoints, one thread, and no network."""

from __future__ import annotations

import atexit
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# What the tests find out is not kept among what the user found out.
if "TRIPTYCH_CACHE" not in os.environ:
    os.environ["TRIPTYCH_CACHE"] = tempfile.mkdtemp(prefix="triptych-tests-")
    atexit.register(shutil.rmtree, os.environ["TRIPTYCH_CACHE"], ignore_errors=True)

# Tests of these files drive other programs, to which a busy machine gives their turns late: each gets one
# more try, and pytest names those that needed it.
DRIVING = (
    "test_ranks",
    "test_kill",
    "test_sft",
    "test_sft_processes",
    "test_demo",
)

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


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Give tests that drive other programs one more try, and those that drive a browser two."""
    for item in items:
        if item.path.stem.startswith("test_web_"):
            item.add_marker(pytest.mark.flaky(reruns=2))
        elif item.path.stem in DRIVING:
            item.add_marker(pytest.mark.flaky(reruns=1))


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
    """Return a factory: a family's name -> its tiny checkpoint, made once; copy it to change it."""
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


@pytest.fixture(scope="session")
def questions(shared_folder: Path) -> Callable[[str, int], list[Any]]:
    """Return a factory: a family's name and a number -> samples of one question, its media and an answer.

    All are different: the media, the length of the text, and the answer. A family that takes pictures gets
    none, one or two; one that takes sounds gets one, except where it also takes pictures: then none or one.
    """
    import numpy as np
    import soundfile
    from PIL import Image as Pictures

    from studio.families import family
    from studio.files import atomic_folder
    from studio.types import Image, Sample, Sound, Text, Turn

    def media() -> Path:
        folder = shared_folder / "media"
        with open(shared_folder / "media.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                with atomic_folder(folder) as fresh:
                    draw = np.random.default_rng(0)
                    for i in range(16):
                        pixels = draw.integers(0, 256, (24 + 8 * (i % 4), 48, 3), dtype=np.uint8)
                        Pictures.fromarray(pixels).save(fresh / f"{i}.png")
                        wave = draw.normal(0, 0.1, 4000 * (1 + i % 6)).astype(np.float32)
                        soundfile.write(fresh / f"{i}.wav", wave, 16000)
        return folder

    def make(name: str, count: int) -> list[Any]:
        takes, folder = family(name).modalities, media()
        made = []
        for i in range(count):
            parts: list[Any] = []
            if "image" in takes:
                parts += [Image(path=folder / f"{(i + k) % 16}.png") for k in range(i % 3)]
            if "audio" in takes and ("image" not in takes or i % 2):
                parts.append(Sound(path=folder / f"{i % 16}.wav"))
            parts.append(Text(text=f"what is it? {'two ' * (i % 5)}{i}"))
            answer = Turn(role="assistant", parts=(Text(text=f"a red circle {i}"),))
            turns = (Turn(role="user", parts=tuple(parts)), answer)
            made.append(Sample(turns=turns, file=Path("made.jsonl"), line=i + 1))
        return made

    return make
