"""One merge by several processes: what the first of them does around it, and what each of the others does.

The first plans, lays out the files, writes its own share and puts the result in place; the others write their
shares into the same files. A journal each lets whoever comes next go on from what all of them finished. Until
the first one calls, the others read nothing, so that inputs are hashed once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mergers import _children
from mergers._early import hash_inputs
from mergers._meeting import Guest, Host, LostProcess
from mergers._ranks import Ranks
from mergers._spec import MergeSpec
from studio.errors import MergeError, TriptychError
from studio.log import Log

if TYPE_CHECKING:
    from mergers._report import MergeReport


def merge_together(spec: MergeSpec, out: Path, log: Log | None, ranks: Ranks) -> MergeReport:
    """Merge as one of several processes; all of them return the same report.

    Raises subclasses of `TriptychError`, among them `LostProcess`, after which the same merge goes on.
    """
    if ranks.rank:
        return take_part(spec, out, ranks)
    missing = [folder for folder in Path(out).absolute().parents if not folder.exists()]
    ending: dict[str, Any] = {"error": "process 0 stopped"}
    with ExitStack() as stack:
        stack.callback(_remove_empty, missing)
        children = None
        if not ranks.launched:
            children = _children.start(spec, out, ranks)
            stack.callback(children.close)
        host = Host(out, ranks, children)
        stack.callback(lambda: host.close(ending))
        try:
            hash_inputs(spec)
            from mergers import _engine

            report = _engine.merge(spec, out, log, ranks, host)
        except BaseException as error:
            ending = {"error": str(error) or type(error).__name__}
            raise
        ending = {"report": report.to_mapping()}
    return report


def _remove_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()


def take_part(spec: MergeSpec, out: Path, ranks: Ranks) -> MergeReport:
    """Write what the first process asks for, and return the report that it comes to.

    For processes that a launcher has started.
    """
    guest = Guest(out, ranks)
    try:
        _write_share(spec, ranks, guest)
        return _report(guest.end(), out)
    except Exception:
        with suppress(MergeError):
            guest.end()
        raise
    finally:
        guest.leave()


def work_for_parent(spec: MergeSpec, out: Path, ranks: Ranks) -> None:
    """Write what the first process asks for, and leave a note on how it went; for those that it started."""
    guest = Guest(out, ranks)
    try:
        _write_share(spec, ranks, guest)
    finally:
        guest.stop()


def _write_share(spec: MergeSpec, ranks: Ranks, guest: Guest) -> None:
    """Wait for the call, and follow it."""
    try:
        from mergers import _engine, _models
        from mergers._resume import Journal, journal_of, merge_key

        folder, key, names = guest.wait()
        # What takes reading whole files has been checked.
        planned, opened = _engine.prepare(replace(spec, allow=(*spec.allow, "base", "statistics")))
        planned = replace(planned, spec=spec)
        if merge_key(planned, opened, ranks.device) != key:
            raise MergeError(
                f"process {ranks.rank} finds other inputs or another installation than process 0; all need "
                "the same folders and the same versions"
            )
        try:
            journal = Journal(journal_of(folder, ranks.rank))
            with closing(journal), _engine.threads_for(planned, opened, ranks):
                _models.write_share(planned, opened, folder, names, journal, guest)
        except FileNotFoundError:
            if folder.exists():
                raise
            raise MergeError("process 0 gave up") from None  # and has removed the folder
        guest.done()
    except TriptychError as error:
        guest.fail("lost" if isinstance(error, LostProcess) else "failed", str(error))
        raise
    except BaseException as error:
        guest.fail("lost", f"stopped: {type(error).__name__}: {error}")
        raise


def _report(ending: dict[str, Any], out: Path) -> MergeReport:
    """Return the first process's report."""
    from mergers._report import MergeReport, ModuleReport

    told = ending["report"]
    found = {field.name: told[field.name] for field in dataclasses.fields(MergeReport)}
    modules = tuple(ModuleReport(**module) for module in found["modules"])
    given = {"out": out, "modules": modules, **{k: tuple(found[k]) for k in ("dropped", "warnings")}}
    return MergeReport(**{**found, **given})
