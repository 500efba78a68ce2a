"""What a search by Optuna needs beside its trials: a study that is kept, its owner, and more processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import suppress
from multiprocessing import get_context
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from recipes._trials import end_with
from studio.errors import ConfigError
from studio.log import Log
from studio.training.threads import physical_cores


def a_study(
    url: str,
    name: str,
    directions: Sequence[str],
    pruner: optuna.pruners.BasePruner | None = None,
    *,
    fresh: bool = False,
) -> optuna.Study:
    """Return the study of a name in the storage at ``url``, new or as it was left; a ``fresh`` one is new.

    Raises:
        ConfigError: if the storage cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        if fresh:
            with suppress(KeyError):
                optuna.delete_study(study_name=name, storage=url)
        return optuna.create_study(
            storage=url, study_name=name, directions=list(directions), pruner=pruner, load_if_exists=True
        )
    except Exception as error:  # whatever the database's driver raises
        raise ConfigError(f"storage: cannot open {url}: {str(error).splitlines()[0]}") from None


def study_name(fingerprint: str) -> str:
    """Return a study's name, which a shared storage may hold beside others."""
    return f"triptych-{fingerprint[:16]}"


def own(trial: optuna.Trial) -> None:
    """Note that this process answers for a trial."""
    trial.set_user_attr("owner", f"{socket.gethostname()}:{os.getpid()}")


def unfinished(study: optuna.Study) -> list[FrozenTrial]:
    """Return the trials that were running in a process of this machine that is gone."""
    return [trial for trial in study.get_trials(states=[TrialState.RUNNING]) if _gone(trial.user_attrs)]


def _gone(attributes: Mapping[str, Any]) -> bool:
    host, _, process = str(attributes.get("owner", "")).rpartition(":")
    if not process or int(process) == os.getpid():
        return True
    if host != socket.gethostname():
        return False
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False


def side_by_side(
    parallel: int,
    count: int,
    next_job: Callable[[], tuple[optuna.Trial, Any] | None],
    apart: Callable[[ProcessPoolExecutor, optuna.Trial, Any], Future[Any]],
    finished: Callable[[optuna.Trial, Any], None],
    log: Log,
    begin: Callable[..., None] | None = None,
    given: Sequence[Any] = (),
) -> None:
    """Run trials in processes of their own, ``parallel`` at a time, each with its share of cores.

    ``apart`` hands a trial and its job to the pool; each process first calls ``begin(*given)``.
    """
    log.stage("trials", count, "trials")
    before = os.environ.get("OMP_NUM_THREADS")
    os.environ["OMP_NUM_THREADS"] = str(max(1, physical_cores() // parallel))
    running: dict[Future[Any], optuna.Trial] = {}
    pool = ProcessPoolExecutor(
        parallel, mp_context=get_context("spawn"), initializer=_begin, initargs=(os.getpid(), begin, *given)
    )
    try:
        while True:
            while len(running) < parallel and (made := next_job()) is not None:
                running[apart(pool, *made)] = made[0]
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                finished(running.pop(future), future.result())
                log.advance()
    finally:
        pool.shutdown(cancel_futures=True)
        os.environ.pop("OMP_NUM_THREADS") if before is None else os.environ.update(OMP_NUM_THREADS=before)


def _begin(leader: int, begin: Callable[..., None] | None, *given: Any) -> None:
    end_with(leader)
    if begin is not None:
        begin(*given)
