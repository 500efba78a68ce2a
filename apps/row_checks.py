"""What rows must have before a model is asked about them: references, groups, verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from studio.errors import DataError, unknown
from studio.log import Log
from studio.types import Sample

_ROUGH = 10  # with fewer clusters intervals are rough


def require_references(data: Mapping[str, Sequence[Sample]]) -> None:
    """Raise `DataError` for a domain without samples, or samples without a reference answer."""
    for domain, samples in data.items():
        if not samples:
            raise DataError(f"domain '{domain}' holds no samples")
        if wrong := [sample.where for sample in samples if not sample.answer]:
            more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            raise DataError(
                f"{wrong[0]}{more}: no reference to score against; the last message must be 'assistant'"
            )


def check_clusters(data: Mapping[str, Sequence[Sample]], clusters: str, log: Log) -> None:
    """Raise `DataError` where rows do not say what belongs together; say so where that is very little."""
    for domain, samples in data.items():
        if without := [sample.where for sample in samples if not sample.groups.get(clusters)]:
            known = sorted({name for sample in samples for name in sample.groups})
            more = f" and {len(without) - 1} more" if len(without) > 1 else ""
            raise DataError(
                f"{without[0]}{more}: the row has no group '{clusters}'; groups of '{domain}': "
                f"{', '.join(known) or 'none'}"
            )
        sizes = Counter(sample.groups[clusters] for sample in samples)
        if len(sizes) < 2:
            raise DataError(
                f"domain '{domain}': all {len(samples)} rows are of one {clusters} ('{next(iter(sizes))}'), "
                "so nothing is known about others; leave --clusters out, or add rows of others"
            )
        if len(sizes) < _ROUGH:
            log.say(
                f"{domain}: intervals rest on {len(sizes)} values of '{clusters}' only; take them as rough"
            )


def require_judgement(domain: str, samples: Sequence[Sample]) -> None:
    """Raise `DataError` for a row without a verdict that the metric judge could take."""
    for sample in samples:
        given = sample.extra.get("judgement", sample.groups.get("judgement"))
        try:
            fine = given is not None and 0 <= float(given) <= 1
        except (TypeError, ValueError):
            fine = False
        if not fine:
            raise DataError(
                f"{sample.where}: the metric judge of '{domain}' needs a judging model (--judge MODEL), or a "
                f"'judgement' from 0 to 1 in every row, not {given!r}"
            )


def check_groups(data: Mapping[str, Sequence[Sample]], by: Sequence[str], log: Log) -> None:
    """Raise `DataError` for a group that no row has; say which groups have one member."""
    known = {name for samples in data.values() for sample in samples for name in sample.groups}
    for name in by:
        if name not in known:
            raise DataError(f"no row has it: {unknown('group', name, known)}")
        for domain, samples in data.items():
            sizes = Counter(sample.groups[name] for sample in samples if name in sample.groups)
            if alone := sorted(value for value, size in sizes.items() if size == 1):
                more = f" and {len(alone) - 1} more" if len(alone) > 1 else ""
                log.say(f"{domain}: {name} '{alone[0]}'{more} has one row only, which says next to nothing")
