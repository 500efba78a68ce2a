"""The rows of each epoch: encoded once, or augmented and encoded anew for each.

An epoch's rows are those of the plain data, in its order and number, so that steps, batches and the place to
go on from mean the same in all of them. What is done about long rows is done after they are augmented; a row
that then no longer fits, or becomes another number of rows than the plain one, is trained plain in that
epoch, and counted: nothing that would stop a run is found later than before its first step.
"""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from studio.augment._rows import Augmenter
from studio.augment._steps import Step, fingerprint
from studio.data import check_media
from studio.data.lengths import Rules
from studio.errors import DataError
from studio.families._gauge import Gauge
from studio.log import Log, QuietLog
from studio.training.encoding import SHARD, Encoded, Shortening, shard_files, write_shard
from studio.types import Batch, Sample

PLAIN, CHANGED = "kept plain", "augmented"


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
    ) -> None:
        """Give the rows of ``samples``, of which ``plain`` are the tensors.

        ``part`` = (i, n) makes every n-th shard from the i-th on, and ``wait`` returns when all processes
        have come to it.
        """
        self._plain, self._gauge, self._samples, self._folder, self._log = plain, gauge, samples, folder, log
        self._steps, self._seed, self._rules, self._part, self._wait = steps, seed, rules, part, wait
        self._made_of = fingerprint(steps)
        self._items: dict[int, list[int]] = {}
        for index, row in enumerate(plain.rows):
            self._items.setdefault(row, []).append(index)

    def of(self, epoch: int) -> Encoded:
        """Return the rows of an epoch, after making those that no earlier try has left in the folder.

        What earlier epochs left is removed.
        """
        if not self._steps:
            return self._plain
        folder = self._folder / f"epoch-{epoch}"
        folder.mkdir(parents=True, exist_ok=True)
        places = list(self._places(folder, epoch))
        todo = [place for n, place in enumerate(places) if n % self._part[1] == self._part[0]]
        missing = [(path, begin) for path, begin in todo if not path.exists()]
        self._log.stage(
            f"augmenting, epoch {epoch + 1}",
            sum(min(SHARD, len(self._samples) - begin) for _, begin in missing),
        )
        for path, begin in missing:
            self._make(path, begin, epoch)
        self._wait()
        made = Encoded([path for path, _ in places], [sample.weight for sample in self._samples])
        if made.fitted[PLAIN]:
            self._log.say(
                f"epoch {epoch + 1}: " + ", ".join(f"{n} rows {how}" for how, n in made.fitted.items())
            )
        self._wait()
        if self._part[0] == 0:
            for old in self._folder.glob("epoch-*"):
                if old != folder:
                    shutil.rmtree(old, ignore_errors=True)
        return made

    def _places(self, folder: Path, epoch: int) -> list[tuple[Path, int]]:
        """Return each shard's file, named by all that decides what is in it, and its first row."""
        plain = shard_files(self._gauge, self._rules, self._samples, folder)
        found = []
        for number, (path, _) in enumerate(plain):
            text = f"{path.stem}:{self._made_of}:{self._seed}:{epoch}:{number}"
            name = hashlib.sha256(text.encode()).hexdigest()[:32]
            found.append((folder / f"{name}.safetensors", number * SHARD))
        return found

    def _make(self, path: Path, begin: int, epoch: int) -> None:
        """Write one shard: each of its rows augmented, or plain."""
        rows = self._samples[begin : begin + SHARD]
        items: list[tuple[int, Batch]] = []
        fitted: Counter[str] = Counter()
        with TemporaryDirectory(dir=path.parent, prefix="media-") as scratch:
            augmenter = Augmenter(
                steps=self._steps,
                seed=self._seed,
                epoch=epoch,
                folder=Path(scratch),
                rate=self._gauge.rate,
                seconds={place: facts.seconds for (place, _), facts in check_media(rows, QuietLog()).items()},
            )
            shortening = Shortening(self._gauge, self._rules, Path(scratch), augmenter.seconds)
            for at, sample in enumerate(rows):
                plain = self._items.get(begin + at, [])
                made = self._augmented(augmenter, shortening, sample, begin + at) if plain else []
                kept = len(made) == len(plain)
                items += [(at, item) for item in (made if kept else (self._plain[i] for i in plain))]
                fitted[CHANGED if kept else PLAIN] += bool(plain)
                self._log.advance()
        write_shard(path, items, +fitted)

    def _augmented(
        self, augmenter: Augmenter, shortening: Shortening, sample: Sample, row: int
    ) -> list[Batch]:
        """Return the tensors of an augmented row; none if it can no longer be trained on."""
        changed = augmenter.sample(sample, row)
        try:
            made, _ = shortening.encoded(changed)
        except DataError:
            return []
        return [augmenter.features(item, row, part, sample) for part, item in enumerate(made)]
