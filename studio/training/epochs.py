"""The rows of each epoch: encoded once, or augmented and encoded anew for each.

An epoch's rows are those of the plain data, in its order and number, so that steps, batches and the place to
go on from mean the same in all of them. What is done about long rows is done after they are augmented; a row
that then no longer fits, or becomes another number of rows than the plain one, is trained plain in that
epoch, and counted: nothing that would stop a run is found later than before its first step.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from studio.augment._rows import Augmenter
from studio.augment._steps import Step, fingerprint
from studio.data import check_media
from studio.data.lengths import Rules
from studio.errors import DataError
from studio.families._gauge import Gauge
from studio.log import Log, QuietLog
from studio.shardwork import WORTH, each_shard
from studio.training.ahead import Ahead
from studio.training.encoding import SHARD, Encoded, Shortening, shard_files
from studio.training.shards import ShardWriter
from studio.types import Batch, Sample

PLAIN, CHANGED = "kept plain", "augmented"
#: Seconds after which it is told that rows are waited for.
_PATIENCE = 2.0


@dataclass(frozen=True, kw_only=True)
class Job:
    """One shard to make: its file, the shard of the plain rows, and the rows from number ``begin`` on."""

    path: Path
    plain: Path
    rows: Sequence[Sample]
    begin: int
    epoch: int


class Epochs:
    """Gives the rows of an epoch; without steps, those are the plain ones, always."""

    def __init__(
        self,
        plain: Encoded,
        gauge: Gauge,
        samples: Sequence[Sample],
        folder: Path,
        log: Log,
        *,
        steps: Sequence[Step] = (),
        seed: int = 0,
        rules: Rules = Rules(),  # noqa: B008
        part: tuple[int, int] = (0, 1),
        wait: Callable[[], None] = lambda: None,
        worth: float = WORTH,
    ) -> None:
        """Give the rows of ``samples``, of which ``plain`` are the tensors, with their shards in ``folder``.

        ``part`` = (i, n) makes every n-th shard from the i-th on, and ``wait`` returns when all processes
        have come to it. The next epoch is only made ahead of its time if one takes ``worth`` seconds.
        """
        self._plain, self._gauge, self._samples, self._folder, self._log = plain, gauge, samples, folder, log
        self._part, self._wait, self._augmented, self._seed = part, wait, bool(steps), seed
        self._shards = list(shard_files(gauge, rules, samples, folder))
        self._made_of = fingerprint(steps)
        self._work = partial(_make, gauge=gauge, rules=rules, steps=tuple(steps), seed=seed)
        self._ahead, self._worth, self._took = Ahead(self._work), worth, 0.0

    def __enter__(self) -> Epochs:
        """Return these epochs; what is made ahead of its time ends with the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """End what is still being made."""
        self._ahead.close()

    def of(self, epoch: int, ahead: bool = False) -> Encoded:
        """Return the rows of an epoch, after making those that no earlier try has left in the folder.

        What earlier epochs left is removed. ``ahead``: other processes begin with the next epoch.
        """
        if not self._augmented:
            return self._plain
        if not self._ahead.wait(_PATIENCE):
            self._log.say(f"epoch {epoch + 1}: its rows are still being augmented")
            self._ahead.wait()
        jobs = self._jobs_of(epoch)
        missing = self._missing(jobs)
        began = time.monotonic()
        self._log.stage(f"augmenting, epoch {epoch + 1}", sum(len(job.rows) for job in missing))
        for job, _ in zip(missing, each_shard(self._work, missing), strict=True):
            self._log.advance(len(job.rows))
        self._took = max(self._took, time.monotonic() - began)
        self._wait()
        made = Encoded([job.path for job in jobs], [sample.weight for sample in self._samples])
        assert len(made) == len(self._plain), (len(made), len(self._plain))
        if made.fitted[PLAIN]:
            told = ", ".join(f"{count} rows {how}" for how, count in made.fitted.items())
            self._log.say(f"epoch {epoch + 1}: {told}")
        self._wait()
        if self._part[0] == 0:
            for old in self._folder.glob("epoch-*"):
                if old.name not in (f"epoch-{epoch}", f"epoch-{epoch + 1}"):
                    shutil.rmtree(old, ignore_errors=True)
        if ahead and self._took >= self._worth:
            self._ahead.begin(self._missing(self._jobs_of(epoch + 1)))
        return made

    def _missing(self, jobs: Sequence[Job]) -> list[Job]:
        """Return those of this process's share that are not done."""
        own = (job for number, job in enumerate(jobs) if number % self._part[1] == self._part[0])
        return [job for job in own if not job.path.exists()]

    def _jobs_of(self, epoch: int) -> list[Job]:
        folder = self._folder / f"epoch-{epoch}"
        folder.mkdir(parents=True, exist_ok=True)
        return list(self._jobs(folder, epoch))

    def _jobs(self, folder: Path, epoch: int) -> Iterator[Job]:
        """Yield each shard of an epoch; its file is named by all that decides what is in it."""
        for number, (plain, rows) in enumerate(self._shards):
            text = f"{plain.stem}:{self._made_of}:{self._seed}:{epoch}:{number}"
            path = folder / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.safetensors"
            yield Job(path=path, plain=plain, rows=rows, begin=number * SHARD, epoch=epoch)


def _make(job: Job, *, gauge: Gauge, rules: Rules, steps: Sequence[Step], seed: int) -> None:
    """Write one shard: each of its rows augmented, or plain."""
    known = Encoded([job.plain], [sample.weight for sample in job.rows])
    plain: dict[int, list[int]] = defaultdict(list)
    for index, at in enumerate(known.rows):
        plain[at].append(index)
    shard = ShardWriter()
    fitted: Counter[str] = Counter()
    facts = check_media(job.rows, QuietLog())
    with TemporaryDirectory(dir=job.path.parent, prefix="media-") as scratch:
        augmenter = Augmenter(
            steps=steps,
            seed=seed,
            epoch=job.epoch,
            folder=Path(scratch),
            rate=gauge.rate,
            seconds={path: found.seconds for (path, _), found in facts.items()},
        )
        shortening = Shortening(gauge, rules, Path(scratch), augmenter.seconds)
        for at, sample in enumerate(job.rows):
            if at not in plain:  # it was too long from the beginning, and dropped
                continue
            made = _augmented(augmenter, shortening, sample, job.begin + at)
            kept = len(made) == len(plain[at])
            for item in made if kept else (known[index] for index in plain[at]):
                shard.add(at, item)
            fitted[CHANGED if kept else PLAIN] += 1
    shard.write(job.path, fitted)


def _augmented(augmenter: Augmenter, shortening: Shortening, sample: Sample, row: int) -> list[Batch]:
    """Return the tensors of an augmented row; none if it can no longer be trained on."""
    changed = augmenter.sample(sample, row)
    try:
        made, _ = shortening.encoded(changed)
    except DataError:
        return []
    return [augmenter.features(item, row, part, sample) for part, item in enumerate(made)]
