"""One command in several processes: started here, or by a launcher such as torchrun.

The process that starts the others is itself the first of them. They find each other through a store that it
holds at a port which the system chooses. When one of them ends before its time, so do all, with one sentence.
"""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from studio.children import LAUNCHER, Children
from studio.errors import ConfigError, LostProcess, TriptychError

#: Seconds until a process that ended shows as ended, and in which the first may find out by itself.
NOTICED, PATIENCE = 3.0, 20.0
#: Words in torch's errors when the other side of a connection is gone; gloo has no type of its own for them.
BROKEN = ("closed by peer", "reset by peer", "Broken pipe", "NCCL", "gloo", "recvValue failed", "TCPStore")
GOES_ON = "the same command goes on from the last saved state"


@contextmanager
def together(nproc: int, module: str, arguments: Sequence[str]) -> Iterator[None]:
    """Run the block as the first of ``nproc`` processes; the others run ``module`` with ``arguments``.

    With 1 the block runs alone, or as what a launcher has made of this process.

    Raises:
        ConfigError: for a number that makes no sense here.
        LostProcess: instead of an error that comes of another process's end; what another process found
            wrong is raised as a `TriptychError` with its sentence.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1") or 1)
    if nproc < 1:
        raise ConfigError(f"nproc must be a whole number >= 1, not {nproc}")
    if nproc > 1 and launched > 1:
        raise ConfigError(f"a launcher has started {launched} processes already; leave --nproc out")
    if nproc > 1:
        with _started(nproc, module, arguments):
            yield
    elif launched > 1:
        try:
            yield
        except RuntimeError as error:
            if not _broken(error):
                raise
            raise LostProcess(f"another of {launched} processes is gone; {GOES_ON}") from error
    else:
        yield


@contextmanager
def _started(nproc: int, module: str, arguments: Sequence[str]) -> Iterator[None]:
    """Start the others, and end them after the block."""
    import torch
    from torch import distributed

    devices = torch.cuda.device_count()
    if devices and nproc > devices:
        raise ConfigError(f"nproc is {nproc}, but there are {devices} CUDA devices; each process takes one")
    store = distributed.TCPStore("127.0.0.1", 0, nproc, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    shared = {
        "WORLD_SIZE": str(nproc),
        "LOCAL_WORLD_SIZE": str(nproc),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",  # it is there already: all of them are its guests
    }
    ranks = {rank: shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(nproc)}
    orders = {rank: list(arguments) for rank in range(1, nproc)}
    children = Children(module, orders, environment=ranks, hushed=True)
    over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(children, nproc, over), name="watcher", daemon=True)
    try:
        with _environment(ranks[0]):
            watcher.start()
            yield
    except Exception as error:
        if isinstance(error, TriptychError) and not isinstance(error, LostProcess):
            raise
        lost = _failed_soon(children)
        if lost is None:
            raise
        raise _reason(children, lost, nproc) from error
    finally:
        over.set()
        children.close()
        del store


def _watch(children: Children, nproc: int, over: threading.Event) -> None:
    """End this process if another one ended badly and this one cannot notice, as in an exchange by NCCL."""
    while not over.wait(0.5):
        lost = children.failed()
        if lost is not None and not over.wait(PATIENCE):
            print(f"triptych: {_reason(children, lost, nproc)}", file=sys.stderr, flush=True)
            os._exit(2)


def _failed_soon(children: Children) -> int | None:
    """Return the number of the process that failed, which shows a moment after its connections broke."""
    until = time.monotonic() + NOTICED
    while (lost := children.failed()) is None and time.monotonic() < until:
        time.sleep(0.05)
    return lost


def _reason(children: Children, lost: int, nproc: int) -> TriptychError:
    """Return what to say about the end of a process: its own sentence if it found something wrong."""
    words, gone = children.last_words(lost), children.gone(lost)
    own = [line for line in words.splitlines() if line.startswith("triptych: ")]
    if own and "another of" not in own[-1]:
        return TriptychError(own[-1].removeprefix("triptych: "))
    told = f"process {lost} of {nproc} {gone}; {GOES_ON}"
    return LostProcess(f"{told}\n{words}" if words and not own else told)


def _broken(error: RuntimeError) -> bool:
    """Say whether an error comes of another process's end."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or any(word in str(error) for word in BROKEN)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """Change the environment for the block."""
    before: dict[str, Any] = {name: os.environ.get(name) for name in {*changes, *LAUNCHER}}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
