"""What a merge keeps of its experts, on average over the domains and in the worst of them, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from studio.eval_report.retention import Kept, kept, mean
from studio.intervals import Additive


@dataclass(frozen=True, kw_only=True)
class Retained:
    """What is kept in each domain, on average over the domains, and in the worst (with its interval)."""

    domains: Mapping[str, Kept]
    mean: Kept
    worst: Kept


def retained(
    values: Mapping[str, Sequence[float]], home: Mapping[str, Sequence[float]], seed: int = 0, name: str = ""
) -> Retained:
    """Return what a merge keeps, from each row's value for the merge and for the domain's own expert [N].

    The ratios and their intervals are those of the report (`studio.eval_report.retention`). There is no mean
    and no worst where an expert has nothing.
    """
    domains = {
        domain: kept(
            Additive.of_values(own), Additive.of_values(home[domain]), True, seed,
            domain=domain, variant=name, home=domain,
        )
        for domain, own in values.items()
    }  # fmt: skip
    row = list(domains.values())
    every = mean(row, len(row))
    if any(one.value is None for one in row):
        nothing = replace(every, value=None, low=None, high=None)
        return Retained(domains=domains, mean=nothing, worst=nothing)
    return Retained(domains=domains, mean=every, worst=min(row, key=lambda one: one.value or 0.0))
