"""The self-test of a merged model: what loads and runs from the donor loads and runs from the result.

It costs loading both models once, so it runs only when asked for (``selftest: true``).
"""

from __future__ import annotations

from pathlib import Path

from studio.errors import MergeError
from studio.families import reload
from studio.later import torch


def selftest(folder: Path, donor: Path, name: str) -> str:
    """Return a sentence on the model in ``folder``; `MergeError` where the donor does what it does not.

    Weights missing from the result or unexpected in it are an error unless the donor has the very same.
    ``name`` is how messages call the result.
    """
    with torch.inference_mode(False):
        theirs, ours = reload(donor), reload(folder)
    if theirs.failure:
        return f"self-test: {donor} itself does not load ({theirs.failure}), so nothing could be compared"
    if ours.failure:
        raise MergeError(f"{name} does not load, {donor} does: {ours.failure}")
    for what, lost in (
        ("lacks the weights", ours.missing - theirs.missing),
        ("has weights that its model does not know", ours.unexpected - theirs.unexpected),
        ("has weights of other shapes than its model", ours.misfits - theirs.misfits),
    ):
        if lost:
            more = f" and {len(lost) - 1} more" if len(lost) > 1 else ""
            raise MergeError(f"{name} {what}: '{min(lost)}'{more}")
    if ours.no_processor and not theirs.no_processor:
        raise MergeError(f"the processor of {name} does not load, that of {donor} does: {ours.no_processor}")
    if ours.no_answer and not theirs.no_answer:
        raise MergeError(f"{name} does not answer, {donor} does: {ours.no_answer}")
    odd = len(ours.missing) + len(ours.unexpected)
    told = "no missing or unexpected weight" if not odd else f"the donor's {odd} odd weights and no other"
    told += "" if ours.no_processor else "; the processor loads"
    if ours.answer is None:
        return f"self-test: {told}"
    return f"self-test: {told}; it answers {ours.answer!r} where {donor.name} says {theirs.answer!r}"
