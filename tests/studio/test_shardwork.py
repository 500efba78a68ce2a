from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from studio.errors import ConfigError, DataError, TriptychError, UnknownName
from studio.shardwork import TRIES, Engine, cut, each_shard, engine

ONE, TWO = Engine(workers=1), Engine(workers=2)
NO_RAY = importlib.util.find_spec("ray") is None


def squares(rows: list[int]) -> tuple[list[int], int]:
    return [row * row for row in rows], 0


def where(rows: list[int]) -> int:
    time.sleep(0.05)
    return os.getpid()


def threads(rows: list[int]) -> tuple[str, int]:
    import torch

    return os.environ["OMP_NUM_THREADS"], torch.get_num_threads()


def refuse(rows: list[int]) -> list[int]:
    if 5 in rows:
        raise DataError("row 5 is wrong")
    if 7 in rows:
        raise UnknownName("kind", "seven", ("six",))
    if 8 in rows:
        raise ZeroDivisionError("a failure of ours")
    return rows


def killed(rows: list[int], folder: Path, times: int) -> list[int]:
    """End the process without a word, as an operating system short of memory does, so many times a shard."""
    for number in range(times):
        mark = folder / f"{rows[0]}-{number}"
        if 3 in rows and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
    return rows


@pytest.mark.parametrize("chosen", [ONE, TWO, Engine(workers=3)], ids=["1", "2", "3"])
def test_results_come_in_the_order_of_the_shards_from_any_number_of_processes(chosen: Engine) -> None:
    shards = cut(range(50), 3)
    assert [len(shard) for shard in shards] == [3] * 16 + [2]
    assert list(each_shard(squares, shards, chosen=chosen)) == [squares(shard) for shard in shards]


def test_work_that_is_asked_of_workers_is_done_by_them_all_and_small_work_stays_here() -> None:
    here = os.getpid()
    assert set(each_shard(where, cut(range(8), 1), chosen=ONE)) == {here}
    assert set(each_shard(where, cut(range(8), 1))) == {here}
    crew = set(each_shard(where, cut(range(30), 1), chosen=TWO))
    assert len(crew) == 2
    assert here not in crew


def test_large_work_is_handed_to_workers_when_it_shows_that_it_is_large() -> None:
    found = list(each_shard(where, cut(range(40), 1), chosen=Engine(), worth=0.5))
    assert found[0] == os.getpid()
    assert found[-1] != os.getpid() or len(os.sched_getaffinity(0)) == 1


def test_a_worker_computes_with_one_thread_and_this_process_keeps_its_own_number() -> None:
    import torch

    before, set_before = torch.get_num_threads(), os.environ.get("OMP_NUM_THREADS")
    torch.set_num_threads(2)
    try:
        assert set(each_shard(threads, cut(range(2), 1), chosen=TWO)) == {("1", 1)}
        assert next(each_shard(threads, cut(range(2), 1), chosen=ONE))[1] == 1
        assert torch.get_num_threads() == 2
        assert os.environ.get("OMP_NUM_THREADS") == set_before
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("chosen", [ONE, TWO], ids=["here", "workers"])
def test_a_users_mistake_is_raised_as_its_own_kind_when_the_turn_of_its_shard_has_come(
    chosen: Engine,
) -> None:
    work = each_shard(refuse, cut(range(4, 12), 1), chosen=chosen)
    assert next(work) == range(4, 5)
    with pytest.raises(DataError, match=r"^row 5 is wrong$"):
        next(work)
    with pytest.raises(UnknownName, match=r"unknown kind 'seven'.*known: six"):
        list(each_shard(refuse, cut(range(6, 8), 1), chosen=chosen))
    with pytest.raises((ZeroDivisionError, RuntimeError), match="a failure of ours"):
        list(each_shard(refuse, cut(range(8, 10), 1), chosen=chosen))


def test_a_killed_worker_loses_nothing(tmp_path: Path) -> None:
    shards = cut(range(12), 2)
    found = list(each_shard(partial(killed, folder=tmp_path, times=TRIES - 1), shards, chosen=TWO))
    assert found == shards
    assert len(list(tmp_path.iterdir())) == TRIES - 1


def test_work_that_always_kills_its_worker_is_given_up_with_a_sentence(tmp_path: Path) -> None:
    work = each_shard(partial(killed, folder=tmp_path, times=9), cut(range(12), 2), chosen=TWO)
    with pytest.raises(TriptychError, match=r"ended 3 times over part 2 of 6 .* by SIGKILL; memory may"):
        list(work)
    assert len(list(tmp_path.iterdir())) == TRIES


def test_workers_end_with_the_one_who_asked_even_if_that_is_killed(tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from tests.studio.test_shardwork import TWO, cut, each_shard, where\n"
        "work = each_shard(where, cut(range(50), 1), chosen=TWO)\n"
        "print(next(work), next(work), flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, root], cwd=root, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for worker in map(int, done.stdout.split()):
        waited = time.monotonic() + 10
        while _runs(worker) and time.monotonic() < waited:
            time.sleep(0.05)
        assert not _runs(worker)


def _runs(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_the_engine_is_chosen_by_arguments_else_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert engine() == Engine()
    monkeypatch.setenv("TRIPTYCH_ENGINE", "ray")
    monkeypatch.setenv("TRIPTYCH_WORKERS", "3")
    assert engine() == Engine(name="ray", workers=3)
    assert engine("local", 1) == ONE
    with pytest.raises(ConfigError, match="unknown engine 'rya'; did you mean 'ray'"):
        engine("rya")
    for wrong in ("-1", "many"):
        monkeypatch.setenv("TRIPTYCH_WORKERS", wrong)
        with pytest.raises(ConfigError, match=f"0 or more, not {wrong}"):
            engine()


@pytest.mark.skipif(not NO_RAY, reason="ray is installed")
def test_without_ray_its_engine_says_how_to_get_it() -> None:
    with pytest.raises(TriptychError, match=r"pip install 'triptych\[ray\]'"):
        list(each_shard(squares, cut(range(4), 2), chosen=Engine(name="ray")))


@pytest.mark.slow
@pytest.mark.skipif(NO_RAY, reason="needs ray: pip install 'triptych[ray]'")
@pytest.mark.filterwarnings("ignore")
def test_ray_gives_what_this_process_gives_and_loses_nothing(tmp_path: Path) -> None:
    import ray

    chosen = Engine(name="ray", workers=2)
    shards = cut(range(50), 3)
    try:
        assert list(each_shard(squares, shards, chosen=chosen)) == [squares(shard) for shard in shards]
        work = partial(killed, folder=tmp_path, times=1)
        assert list(each_shard(work, cut(range(12), 2), chosen=chosen)) == cut(range(12), 2)
        with pytest.raises(DataError, match="row 5 is wrong"):
            list(each_shard(refuse, cut(range(12), 2), chosen=chosen))
    finally:
        ray.shutdown()
