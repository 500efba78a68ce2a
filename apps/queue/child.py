"""The process of one job: it runs the recipe, says how that ended, and lets the next job begin."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from apps.queue import process
from apps.queue.jobs import HELD, State, read_job, why, write_state
from apps.queue.line import LOCK, Queue

#: Seconds in which another look at the job's lock may be on its way.
PATIENCE = 5.0


def work(folder: Path) -> int:
    """Run the job in ``folder``, unless another process does so already; return the exit status."""
    until = time.monotonic() + PATIENCE
    while True:
        with process.locked(folder / HELD, wait=False) as mine:
            if mine:
                status = _run(folder)
                break
        if time.monotonic() > until:
            return 0
        time.sleep(0.05)
    Queue(folder.parent).go_on()
    return status


def _run(folder: Path) -> int:
    from apps.cli import main

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # before and after the loop, which has its own
    with process.locked(folder.parent / LOCK):
        one = read_job(folder)
        if one is None or one.state.name not in ("waiting", "running"):
            return 0  # it was stopped or removed before it began
        own = {"pid": os.getpid(), "born": process.birth(os.getpid()), "host": process.host()}
        write_state(folder, dataclasses.replace(one.state, name="running", **own))
    try:
        status = main(["run", *one.job.words])
    except KeyboardInterrupt:
        status = 130
    except BaseException:
        traceback.print_exc()
        status = 1
    with process.locked(folder.parent / LOCK):
        one = read_job(folder)
        if one is not None:
            write_state(folder, _ended(one.state, status, folder))
    return status


def _ended(state: State, status: int, folder: Path) -> State:
    if status == 0:
        return dataclasses.replace(state, name="finished", since=time.time(), reason="")
    if status == 130 or state.name == "stopping":
        return dataclasses.replace(state, name="stopped", since=time.time(), reason="")
    return dataclasses.replace(state, name="failed", since=time.time(), reason=why(folder))


if __name__ == "__main__":
    sys.exit(work(Path(sys.argv[1])))
