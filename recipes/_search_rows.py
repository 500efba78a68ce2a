"""The rows of a search: some to choose by, some to report on, none of them both, told by their contents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random

from studio.assets import find_data
from studio.data import check_media, load_data
from studio.data.identity import data_hash, known_hashes, sample_key
from studio.data.jsonl import data_splits
from studio.errors import ConfigError, DataError
from studio.log import Log
from studio.types import Sample


@dataclass(frozen=True, kw_only=True)
class Rows:
    """How many rows of each domain, and of which split."""

    search: int = field(default=32, metadata={"help": "rows of each domain that candidates are tried on"})
    report: int = field(default=100, metadata={"help": "rows of each domain that are asked at the end, once"})
    fit: int = field(default=64, metadata={"help": "further rows for methods that learn from rows"})
    search_split: str = field(default="train", metadata={"help": "the split that is searched on"})
    report_split: str = field(default="test", metadata={"help": "the split that is reported; never searched"})


@dataclass(frozen=True, kw_only=True)
class Taken:
    """One domain's rows; ``shared`` counts rows left out because the report asks the same questions."""

    search: tuple[Sample, ...]
    fit: tuple[Sample, ...]
    report: tuple[Sample, ...]
    shared: int

    @property
    def digest(self) -> str:
        """A hash of all rows, in order."""
        return data_hash([*self.search, *self.fit, *self.report])


def take_rows(data: Mapping[str, str], wanted: Rows, seed: int, log: Log) -> dict[str, Taken]:
    """Return the rows of each domain, drawn by ``seed``.

    Raises:
        ConfigError: numbers below 1, or a split that is searched and reported.
        DataError: data that is not there, without references, or with nothing left to search on.
    """
    wrong = [
        f"rows.{name} must be at least {least}, not {value}"
        for name, least in (("search", 1), ("report", 1), ("fit", 0))
        if (value := getattr(wanted, name)) < least
    ]
    if wanted.search_split == wanted.report_split:
        wrong.append(f"rows: '{wanted.search_split}' cannot be searched on and reported, too")
    if wanted.search_split == "test":
        wrong.append("rows.search_split is 'test', and a test set is never searched on")
    if wrong:
        raise ConfigError("; ".join(wrong))
    return {domain: _of_domain(domain, name, wanted, seed, log) for domain, name in data.items()}


def _of_domain(domain: str, name: str, wanted: Rows, seed: int, log: Log) -> Taken:
    path = find_data(name)
    if path.is_dir() and wanted.report_split in data_splits(path):
        searched, reported = load_data(path, wanted.search_split), load_data(path, wanted.report_split)
    elif path.is_dir() and len(data_splits(path)) > 1:
        load_data(path, wanted.report_split)  # says what there is
        raise AssertionError
    else:  # one file for both: what is reported is taken out first
        whole = load_data(path)
        Random(f"{seed}/{domain}/halves").shuffle(whole)
        reported, searched = whole[: wanted.report], whole[wanted.report :]
    for sample in [*searched, *reported]:
        if not sample.answer:
            raise DataError(
                f"{sample.where}: no reference to score against; the last turn must be 'assistant'"
            )
    reported = _some(reported, wanted.report, f"{seed}/{domain}/report")
    hashes = known_hashes([*searched, *reported])

    def question(sample: Sample) -> str:
        return sample_key(replace(sample, turns=sample.prompt), hashes)

    asked = {question(sample) for sample in reported}
    fresh = [sample for sample in searched if question(sample) not in asked]
    if not fresh:
        why = (
            f"all {len(searched)} rows to search on are questions of the report"
            if searched
            else "there are none"
        )
        raise DataError(f"domain '{domain}': no row is left to search on, {why}; give other splits or data")
    drawn = _some(fresh, wanted.search + wanted.fit, f"{seed}/{domain}/search")
    check_media([*drawn, *reported], log)
    return Taken(
        search=tuple(drawn[: wanted.search]),
        fit=tuple(drawn[wanted.search :]),
        report=tuple(reported),
        shared=len(searched) - len(fresh),
    )


def _some(samples: Sequence[Sample], count: int, seed: str) -> list[Sample]:
    """Return at most so many samples in a random order."""
    return Random(seed).sample(list(samples), min(count, len(samples)))
