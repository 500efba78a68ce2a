"""The queue of training runs, with real processes that are really killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from apps.cli import main
from apps.queue import Queue, Standing, process
from apps.queue.child import work
from apps.queue.jobs import State, write_state
from studio.errors import ConfigError, UnknownName
from studio.training.tracking import read_metrics

LIMIT = 240.0  # seconds; a run of six steps takes five, but the machine may be busy
#: A program with a queue open, as an app has: it goes on with it until it is killed.
APP = """
import sys, time
from apps.queue import Queue
queue = Queue(sys.argv[1])
while True:
    print(sum(one.state.name == "running" for one in queue.go_on()), flush=True)
    time.sleep(0.05)
"""


def light(queue: Queue, name: str, rows: int = 2) -> Standing:
    """Add a job that needs neither model nor data: it draws cloth."""
    output = queue.folder.parent / name
    words = ["domains", "names=[textiles]", f"train={rows}", "test=1", f"output={output}"]
    return queue.add(title=name, words=words, output=output)


def until(queue: Queue, reached: Callable[[list[Standing]], Any], *, drive: bool = True) -> list[Standing]:
    """Return the jobs once they are as wanted; with ``drive`` the queue is helped on, as an app would."""
    end = time.monotonic() + LIMIT
    while not reached(jobs := queue.go_on() if drive else queue.jobs()):
        assert time.monotonic() < end, [(one.job.id, one.state, one.log(5)) for one in jobs]
        time.sleep(0.1)
    return jobs


def names(jobs: list[Standing]) -> list[str]:
    return [one.state.name for one in jobs]


def answer(i: int) -> dict[str, str]:
    return {"role": "assistant", "content": f"{i} it is"}


def steps(run: Path) -> int:
    return max((int(row["step"]) for row in read_metrics(run)), default=0)


@pytest.fixture
def queue(tmp_path: Path) -> Queue:
    return Queue(tmp_path / "queue")


def test_jobs_run_in_turn_and_go_on_when_nobody_looks(queue: Queue) -> None:
    for name in ("one", "two"):
        light(queue, name)
    assert names(queue.jobs()) == ["waiting"] * 2
    assert names(queue.go_on()) == ["running", "waiting"]
    jobs = until(queue, lambda jobs: names(jobs) == ["finished"] * 2, drive=False)
    began = [one.state.since for one in jobs]
    assert began == sorted(began)
    for one in jobs:
        assert json.loads((Path(one.job.output) / "run.json").read_text())["state"] == "finished"
        assert one.stage().total == one.stage().done > 0


def test_as_many_jobs_run_at_once_as_the_setting_says(queue: Queue) -> None:
    queue.folder.mkdir()
    queue.set_limit(2)
    for name in ("one", "two", "three"):
        light(queue, name, rows=300)
    assert names(queue.go_on()) == ["running", "running", "waiting"]
    queue.set_limit(0)
    until(queue, lambda jobs: names(jobs) == ["finished", "finished", "waiting"])
    with pytest.raises(ConfigError, match="at least 0 jobs can run at once, not -1"):
        queue.set_limit(-1)


def test_a_job_that_fails_says_why_and_the_next_one_runs(queue: Queue, tmp_path: Path) -> None:
    output = tmp_path / "wrong"
    queue.add(title="wrong", words=["domains", "tarin=2", f"output={output}"], output=output)
    light(queue, "right")
    jobs = until(queue, lambda jobs: names(jobs) == ["failed", "finished"])
    assert jobs[0].state.reason.startswith("unknown setting 'tarin'; did you mean 'train'?")
    assert not output.exists()


def test_a_run_is_stopped_goes_on_is_killed_and_goes_on_to_the_end(
    queue: Queue, tiny: Callable[[str], Path], tmp_path: Path
) -> None:
    run, data = tmp_path / "run", tmp_path / "train.jsonl"
    rows = [{"messages": [{"role": "user", "content": f"what is {i}?"}, answer(i)]} for i in range(12)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    asked = {"model": str(tiny("qwen_omni")), "data": str(data), "output": str(run), "max_steps": 40}
    asked |= {"batch_size": 2, "adapter": {"r": 4}, "save_every": 3}
    job = queue.add(title="Cloth: the best!", words=["sft"], output=run, settings=asked).job
    assert job.id == "0001-cloth-the-best"
    queue.go_on()
    until(queue, lambda _: steps(run) >= 4)
    assert queue.stop("1").state.name == "stopping"
    until(queue, lambda jobs: names(jobs) == ["stopped"])
    stopped = steps(run)
    assert json.loads((run / "last/state.json").read_text())["step"] == stopped < 40

    assert queue.resume(job.id).state.name == "waiting"
    queue.go_on()
    jobs = until(queue, lambda _: steps(run) >= stopped + 4)
    os.kill(jobs[0].state.pid, signal.SIGKILL)
    jobs = until(queue, lambda jobs: names(jobs) == ["interrupted"])
    assert jobs[0].state.reason.startswith("Its process is gone. It said last: ")
    saved = json.loads((run / "last/state.json").read_text())["step"]
    assert saved >= stopped

    queue.resume("1")
    until(queue, lambda jobs: names(jobs) == ["finished"])
    assert f"going on after step {saved} of 40" in (queue.folder / job.id / "log.txt").read_text()
    assert [row["step"] for row in read_metrics(run) if "loss" in row] == list(range(1, 41))
    assert (run / "adapter/adapter_config.json").is_file()


def test_an_app_that_is_killed_loses_nothing_and_the_next_one_adopts_what_runs(queue: Queue) -> None:
    light(queue, "one", rows=3000)
    light(queue, "two")
    app = subprocess.Popen([sys.executable, "-c", APP, str(queue.folder)], stdout=subprocess.PIPE, text=True)
    with app:
        assert app.stdout is not None
        assert next(line for line in app.stdout if line.strip() == "1")
        app.kill()
    again = Queue(queue.folder)
    before = again.jobs()
    assert names(before) == ["running", "waiting"]
    assert process.alive(before[0].state.pid, before[0].state.born)
    assert again.go_on()[0].state == before[0].state
    until(again, lambda jobs: names(jobs) == ["finished", "finished"])


def test_two_apps_on_one_folder_start_each_job_once(queue: Queue) -> None:
    for name in ("one", "two", "three"):
        light(queue, name)
    apps = [
        subprocess.Popen([sys.executable, "-c", APP, str(queue.folder)], stdout=subprocess.DEVNULL)
        for _ in range(2)
    ]
    jobs = until(queue, lambda jobs: names(jobs) == ["finished"] * 3, drive=False)
    for app in apps:
        app.kill()
        app.wait()
    for one in jobs:
        assert (one.folder / "log.txt").read_text().count("textiles train: 2 samples") == 1


def test_a_job_that_was_started_without_being_noted_is_not_run_twice(queue: Queue) -> None:
    """An app may be killed between starting a process and writing its number down."""
    one = light(queue, "one", rows=600)
    order = [sys.executable, "-m", "apps.queue.child", str(one.folder)]
    with open(one.folder / "log.txt", "ab") as log:
        unnoted = subprocess.Popen(order, stdout=log, stderr=log, start_new_session=True)
    jobs = until(queue, lambda jobs: names(jobs) == ["finished"])
    unnoted.wait()
    assert (jobs[0].folder / "log.txt").read_text().count("textiles train: 600 samples") == 1


def test_a_number_that_another_process_has_by_now_is_not_taken_for_the_job(queue: Queue) -> None:
    one = light(queue, "one")
    state = {"name": "running", "pid": os.getpid(), "host": process.host(), "since": time.time()}
    write_state(one.folder, State(**state, born="another start"))
    assert names(queue.jobs()) == ["interrupted"]
    write_state(one.folder, State(**state, born=process.birth(os.getpid())))
    assert names(queue.jobs()) == ["running"]
    assert process.birth(os.getpid()) == process.birth(os.getpid()) != ""
    assert process._birth_by_ps(os.getpid()) == process._birth_by_ps(os.getpid()) != ""
    assert process._birth_by_ps(2**22 + 1) == process.birth(2**22 + 1) == ""


def test_a_job_of_another_machine_runs_for_as_long_as_its_lock_is_held(queue: Queue) -> None:
    one = light(queue, "one")
    write_state(one.folder, State(name="running", pid=1, born="then", host="elsewhere", since=time.time()))
    with process.locked(one.folder / "held"):
        assert names(queue.jobs()) == ["running"]
        with pytest.raises(ConfigError, match="runs on elsewhere; stop it there"):
            queue.stop("1")
    assert names(queue.jobs()) == ["interrupted"]


def test_a_waiting_job_is_taken_out_and_another_put_behind_the_others(queue: Queue) -> None:
    for name in ("one", "two"):
        light(queue, name)
    assert queue.stop("1").state.name == "stopped"
    assert work(queue.folder / "0001-one") == 0  # its process, if it came too late
    queue.resume("1")
    queue.set_limit(1)
    assert names(queue.go_on()) == ["waiting", "running"]
    with pytest.raises(ConfigError, match="the job 0002-two is running; stop it first"):
        queue.remove("2")
    with pytest.raises(ConfigError, match="cannot go on: waits for its turn"):
        queue.resume("1")
    until(queue, lambda jobs: names(jobs) == ["finished"] * 2)
    with pytest.raises(ConfigError, match="does not run: finished"):
        queue.stop("1")
    assert queue.remove("1").job.title == "one"
    assert [one.job.id for one in queue.jobs()] == ["0002-two"]
    assert (queue.folder.parent / "one/run.json").is_file()
    with pytest.raises(UnknownName, match="unknown job 'tow'"):
        queue.job("tow")


def test_two_unfinished_jobs_do_not_write_to_one_place(queue: Queue) -> None:
    light(queue, "one")
    with pytest.raises(ConfigError, match="the job 0001-one writes to"):
        light(queue, "one")


def test_the_command_adds_lists_stops_and_removes(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["queue"]) == 0
    assert "no jobs" in capsys.readouterr().out
    assert main(["queue", "limit", "0"]) == 0
    line = [
        "queue",
        "add",
        "domains",
        "names=[textiles]",
        "train=2",
        "test=1",
        "output=cloth",
        "--name",
        "My cloth",
    ]
    assert main(line) == 0
    assert capsys.readouterr().out.startswith("0001-my-cloth  waits for its turn")
    assert main(["queue", "list", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told[0]["state"] == "waiting"
    assert told[0]["output"] == str(tmp_path / "cloth")
    assert main(["queue", "stop", "1"]) == main(["queue", "resume", "1"]) == 0
    assert main(["queue", "limit", "1"]) == 0
    until(Queue(tmp_path / "runs/queue"), lambda jobs: names(jobs) == ["finished"])
    assert (tmp_path / "cloth/textiles/train.jsonl").is_file()
    capsys.readouterr()
    assert main(["queue", "remove", "1"]) == 0
    assert capsys.readouterr().out.startswith("removed 0001-my-cloth")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (["stpo", "1"], "unknown action 'stpo'; did you mean 'stop'?"),
        (["stop"], "queue stop needs a job"),
        (["stop", "7"], "unknown job '7'"),
        (["add"], "queue add needs a recipe"),
        (["add", "domains", "tran=2"], "did you mean 'train'?"),
        (["limit", "many"], "queue limit needs a number"),
        (["list", "--now"], "--now goes with queue stop"),
        (["list", "all"], "queue list takes no 'all'"),
    ],
)
def test_mistakes_are_told_in_one_sentence(
    line: list[str], sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["queue", *line, "--queue", str(tmp_path / "queue")]) == 2
    assert sentence in capsys.readouterr().err
    assert not (tmp_path / "queue").exists()
