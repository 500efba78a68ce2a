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
from studio.shardwork_local import each_local

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
    crew = {one.result for one in each_local(where, cut(range(30), 1), 2, copies=True)}
    assert len(crew) == 2
    assert here not in crew


def test_this_process_works_while_workers_start_afresh() -> None:
    work = partial(slower_here, here=os.getpid())
    crew = [one.result for one in each_local(work, cut(range(60), 1), 2, copies=False)]
    assert crew[0] == os.getpid()
    assert len(set(crew)) == 3
    assert crew[-1] != os.getpid()


def slower_here(rows: list[int], here: int) -> int:
    time.sleep(0.5 if os.getpid() == here else 0.05)
    return os.getpid()


def product(rows: list[int]) -> bytes:
    import torch

    one = torch.arange(512 * 512, dtype=torch.float32).view(512, 512) + rows[0]
    return bytes((one @ one).numpy()) + os.environ["OMP_NUM_THREADS"].encode()


@pytest.mark.parametrize("copies", [True, False], ids=["copies", "afresh"])
def test_workers_compute_the_same_bits_after_this_process_has_used_several_threads(copies: bool) -> None:
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.randn(1024, 1024) @ torch.randn(1024, 1024)
        found = [one.result for one in each_local(product, cut(range(6), 1), 2, copies=copies)]
        torch.set_num_threads(1)
        assert [one[: 4 << 18] for one in found] == [product(one)[: 4 << 18] for one in cut(range(6), 1)]
        assert {one[4 << 18 :] for one in found if len(one) == (4 << 18) + 1} == {b"1"}
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("copies", [True, False], ids=["copies", "afresh"])
def test_a_killed_worker_of_either_kind_loses_nothing(tmp_path: Path, copies: bool) -> None:
    shards = cut(range(40), 2)
    work = partial(killed_elsewhere, here=os.getpid(), folder=tmp_path)
    found = [one.result for one in each_local(work, shards, 2, copies=copies)]
    assert found == shards
    assert list(tmp_path.iterdir())


def killed_elsewhere(rows: list[int], here: int, folder: Path) -> list[int]:
    """End the first worker that gets a row divisible by 8, once for each such row."""
    time.sleep(0.5 if os.getpid() == here else 0.05)  # or it would be done before a worker has started
    mark = folder / str(rows[0])
    if os.getpid() != here and rows[0] % 8 == 0 and not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return rows


def test_a_process_that_runs_other_threads_is_not_copied() -> None:
    code = (
        "import sys, threading; sys.path.insert(0, sys.argv[1])\n"
        "from studio.shardwork_local import copyable\n"
        "first = copyable()\n"
        "stop = threading.Event(); other = threading.Thread(target=stop.wait); other.start()\n"
        "second = copyable(); stop.set(); other.join()\n"
        "print(first, second, copyable())"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, root], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(sys.platform == "linux"), "False", str(sys.platform == "linux")]


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
    work = each_local(partial(killed, folder=tmp_path, times=TRIES - 1), shards, 2, copies=True)
    assert [one.result for one in work] == shards
    assert len(list(tmp_path.iterdir())) == TRIES - 1


def test_work_that_always_kills_its_worker_is_given_up_with_a_sentence(tmp_path: Path) -> None:
    work = each_local(partial(killed, folder=tmp_path, times=9), cut(range(12), 2), 2, copies=True)
    with pytest.raises(TriptychError, match=r"ended 3 times over part 2 of 6 .* by SIGKILL; memory may"):
        list(work)
    assert len(list(tmp_path.iterdir())) == TRIES


@pytest.mark.parametrize("how", ["copies", "afresh"])
def test_workers_end_with_the_one_who_asked_even_if_that_is_killed(how: str) -> None:
    code = (
        "import os, signal, sys; sys.path.insert(0, sys.argv[1])\n"
        "from functools import partial\n"
        "from tests.studio.test_shardwork import cut, each_local, slower_here\n"
        "work = partial(slower_here, here=os.getpid())\n"
        "work = each_local(work, cut(range(50), 1), 2, copies=sys.argv[2] == 'copies')\n"
        "done = {next(work).result for _ in range(40)} - {os.getpid()}\n"
        "print(*done, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    root = str(Path(__file__).parents[2])
    done = subprocess.run([sys.executable, "-c", code, root, how], cwd=root, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert done.stdout.split()
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
