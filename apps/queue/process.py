"""The process of a job: started apart from its starter, known again by its number and the time it began."""

from __future__ import annotations

import atexit
import fcntl
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from studio.children import LAUNCHER

_BOOT = Path("/proc/sys/kernel/random/boot_id")
_started: list[subprocess.Popen[bytes]] = []


@atexit.register
def _let_go() -> None:
    """Leave those that run to themselves: that this process ends before them is the point."""
    for process in _started:
        if process.poll() is None:
            process.returncode = 0


def start(module: str, argument: str, *, cwd: str, log: Path, environment: dict[str, str]) -> int:
    """Start a module of ours with one argument in a session of its own; return the process's number.

    It has no terminal and no open file of this process; what it writes is added to ``log``.
    """
    inherited = {k: v for k, v in os.environ.items() if k not in LAUNCHER and not k.startswith("GRADIO_")}
    inherited["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    with open(log, "ab") as told:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", module, argument],
            stdin=subprocess.DEVNULL, stdout=told, stderr=told,
            cwd=cwd if os.path.isdir(cwd) else None,
            env={**inherited, "PYTHONUNBUFFERED": "1", **environment},
            start_new_session=True,
        )  # fmt: skip
    _started.append(process)
    threading.Thread(target=_await, args=(process,), name="job", daemon=True).start()
    return process.pid


def _await(process: subprocess.Popen[bytes]) -> None:
    """Ask for a process's end when it comes, so that the system may forget it."""
    process.wait()
    _started.remove(process)


def alive(pid: int, born: str) -> bool:
    """Say whether the process that had the number ``pid`` and began at ``born`` still runs."""
    return bool(pid) and bool(born) and birth(pid) == born


def birth(pid: int) -> str:
    """Return what tells a process from every other that had or will have its number; "" if it is gone.

    On Linux the start of the machine and the process's start on it, elsewhere its start as `ps` tells it.
    """
    if not os.path.isdir("/proc/self"):
        return _birth_by_ps(pid)
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (OSError, ValueError):
        return ""
    if fields[0] in "ZXx":
        return ""  # it has ended; only its parent has not asked yet
    boot = _BOOT.read_text().strip() if _BOOT.exists() else ""
    return f"{boot}:{fields[19]}"


def _birth_by_ps(pid: int) -> str:
    done = subprocess.run(["ps", "-o", "stat=,lstart=", "-p", str(pid)], capture_output=True, text=True)
    state, _, began = done.stdout.strip().partition(" ")
    return "" if done.returncode or state.startswith("Z") else " ".join(began.split())


def host() -> str:
    """Return this machine's name."""
    return socket.gethostname()


@contextmanager
def locked(file: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock on a file for the block; without ``wait`` yield False at once if another holds it.

    The lock goes with the process that holds it, however that ends.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with open(file, "ab") as held:
        try:
            fcntl.flock(held, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True
