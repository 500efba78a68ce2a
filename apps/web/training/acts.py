"""What the Train page does: each handler admits the visitor first, and trusts nothing that it is sent."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
from gradio.utils import get_upload_folder

from apps.web.desk import Desk
from apps.web.handlers import admitted
from apps.web.panels import problem_html
from apps.web.training import progress
from apps.web.training.received import put_in_place
from apps.web.training.taking import Told, plain, take
from apps.web.training.trainings import Trainings
from apps.web.visitors import Visitor
from studio.data.intake import Taken
from studio.errors import DataError, TriptychError
from studio.training.tracking import read_metrics


class Acts:
    """The handlers of the page; a visitor of less than ``role`` is refused by all of them."""

    def __init__(self, desk: Desk, role: str) -> None:
        """Open the queue of the desk's runs."""
        self.desk, self.role, self.trainings = desk, role, Trainings(desk)

    def opened(self, request: gr.Request) -> tuple[Any, ...]:
        """Fill the page when it is opened: the sets that are here, the trainings, the newest that runs."""
        who = self._visitor(request)
        jobs = self.trainings.seen_by(who)
        sets = list(self.trainings.known_to(who))
        running = [one.job.id for one in jobs if one.state.name == "running"]
        chosen = (running or [one.job.id for one in jobs] or [""])[0]
        return gr.update(choices=sets, value=None), gr.update(active=True), *self._shown(who, chosen, {})

    def receive(self, event: gr.EventData, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Take in the files that were sent, telling how far that is."""
        who = self._visitor(request)
        uploads = Path(get_upload_folder())
        told = event._data if isinstance(event._data, dict) else {}

        def work(folder: Path, log: Told) -> tuple[str, Path]:
            return put_in_place(told, uploads, folder, log), folder

        yield from take(self.trainings, who, work)

    def choose(self, chosen: Any, request: gr.Request) -> Iterator[tuple[Any, ...]]:
        """Take in a set that is here already."""
        who = self._visitor(request)
        known = self.trainings.known_to(who)

        def work(folder: Path, log: Told) -> tuple[str, Path]:
            if not isinstance(chosen, str) or chosen not in known:
                raise DataError("that set is not here any more")
            return str(chosen), known[chosen]

        yield from take(self.trainings, who, work)

    def start(
        self, name: Any, preset: Any, taken: Any, steps: Any, rate: Any, seed: Any, request: gr.Request
    ) -> tuple[Any, ...]:
        """Put a new training into the queue."""
        who = self._visitor(request)
        try:
            by_hand = changes(steps, rate, seed)
            made = self.trainings.start(
                who, name, preset, taken if isinstance(taken, Taken) else None, by_hand
            )
        except (TriptychError, OSError) as error:
            return problem_html(plain(error)), gr.skip(), *[gr.skip()] * 12
        note = '<p class="tp-told">It is in the queue; this page may be closed meanwhile.</p>'
        return note, "", *self._shown(who, made.job.id, {})

    def pick(self, event: gr.EventData, request: gr.Request) -> tuple[Any, ...]:
        """Show another training."""
        who = self._visitor(request)
        told = event._data if isinstance(event._data, dict) else {}
        return self._shown(who, told.get("job"), {})

    def look(self, job: Any, seen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Show what has changed."""
        return self._shown(self._visitor(request), job, seen)

    def halt(self, job: Any, seen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Stop the chosen training; it saves its state first."""
        return self._act(request, job, self.trainings.queue.stop)

    def resume(self, job: Any, seen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Let the chosen training go on."""
        return self._act(request, job, self.trainings.queue.resume)

    def forget(self, job: Any, seen: Any, request: gr.Request) -> tuple[Any, ...]:
        """Take the chosen training off the list."""
        return self._act(request, job, self.trainings.queue.remove)

    def _act(self, request: gr.Request, job: Any, act: Any) -> tuple[Any, ...]:
        who = self._visitor(request)
        try:
            act(self.trainings.of(who, job).job.id)
            self.trainings.forget(str(job))
            self.trainings.queue.go_on()
        except (TriptychError, OSError) as error:
            raise gr.Error(plain(error), print_exception=False) from None
        return self._shown(who, job, {})

    def _shown(self, who: Visitor, job: Any, seen: Any) -> tuple[Any, ...]:
        """Return the updates of the right side; what is as it was is left alone, and keeps its focus."""
        jobs = self.trainings.seen_by(who)
        one = next((one for one in jobs if one.job.id == job), jobs[0] if jobs else None)
        rows = read_metrics(Path(one.job.output)) if one else []
        state = one.state.name if one else ""
        alive = state in ("running", "stopping", "waiting")
        apart = self.trainings.apart.get(one.job.id, "") if one else ""
        fresh = {
            "list": progress.list_html(jobs, one.job.id if one else ""),
            "status": progress.status_html(one, rows) if one else "",
            "stop": alive,
            "resume": state in ("stopped", "interrupted", "failed"),
            "remove": bool(one) and not (alive and state != "waiting"),
            "end": progress.end_html(one, rows, apart) if one and not alive else "",
            "curve": progress.curve_html(rows),
            "figures": bool(rows),
            "table": progress.table_html(rows) if rows else "",
            "said": progress.said_html(one) if one else "",
        }
        before = seen if isinstance(seen, dict) else {}
        updates = [
            gr.skip() if key in before and before[key] == value
            else gr.update(visible=value) if isinstance(value, bool)
            else value
            for key, value in fresh.items()
        ]  # fmt: skip
        return *updates, one.job.id if one else "", fresh

    def _visitor(self, request: gr.Request) -> Visitor:
        """Return who asks, or refuse."""
        return admitted(self.desk, request, self.role)


def changes(steps: Any, rate: Any, seed: Any) -> dict[str, Any]:
    """Return the settings that a visitor has set by hand.

    Raises:
        DataError: if one is no number that a run could take.
    """
    try:
        found = {"max_steps": int(steps or 0), "lr": float(rate or 0), "seed": int(seed or 0)}
    except (TypeError, ValueError, OverflowError):
        raise DataError("Steps, learning rate and seed must be numbers.") from None
    if not (0 <= found["max_steps"] <= 1_000_000 and 0 <= found["lr"] <= 1 and 0 <= found["seed"] < 2**31):
        raise DataError("Allowed: 1 to 1,000,000 steps, a learning rate up to 1, a seed from 0.")
    return {key: value for key, value in found.items() if value}
