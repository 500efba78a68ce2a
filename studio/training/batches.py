"""Which samples make up which step: seeded, sorted by length for little padding, the same after a resume.

A step's batch is fixed before it is cut into micro-batches, so 1 x 8, 2 x 4 and 4 x 2 samples, on one
process or on several, are the same step.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from studio.training.seed import generator

#: At most so many batches are sorted together; more would save no padding and cost randomness.
BUCKET = 50


def steps_per_epoch(samples: int, size: int) -> int:
    """Return the optimiser steps in one pass over the data; the last one may be smaller."""
    return -(-samples // size)


def epoch_batches(lengths: Sequence[int], size: int, seed: int, epoch: int) -> list[list[int]]:
    """Return the batches of one epoch as sample indices, every sample exactly once.

    The samples are shuffled, cut into buckets of up to 50 batches (fewer when the data is small, so that the
    composition still changes from epoch to epoch), sorted by length inside a bucket, cut into batches
    of ``size``, and the batches are shuffled.
    """
    chance = generator(seed, "epoch", epoch)
    order = torch.randperm(len(lengths), generator=chance).tolist()
    span = size * max(1, min(BUCKET, len(lengths) // (size * 4)))
    batches: list[list[int]] = []
    for begin in range(0, len(order), span):
        bucket = sorted(order[begin : begin + span], key=lambda index: lengths[index])
        batches += [bucket[at : at + size] for at in range(0, len(bucket), size)]
    return [batches[index] for index in torch.randperm(len(batches), generator=chance).tolist()]


def micro_batches(
    batch: Sequence[int], lengths: Sequence[int], size: int, rank: int = 0, world: int = 1, *, tokens: int = 0
) -> list[list[int]]:
    """Cut a step's batch into micro-batches of at most ``size`` samples, and return those of one process.

    With ``tokens`` they hold at most so many tokens instead, padding included (a longer sample stands alone):
    many short samples or few long ones, which take about the same memory. Every process gets the same number,
    as the exchange of gradients demands; some may be empty.
    """
    ordered = sorted(batch, key=lambda index: lengths[index])
    if tokens:
        parts: list[list[int]] = []
        for index in ordered:
            if not parts or (len(parts[-1]) + 1) * lengths[index] > tokens:
                parts.append([])
            parts[-1].append(index)
        parts += [[]] * (-len(parts) % world)
        return parts[rank::world]
    pieces = world * -(-len(ordered) // (size * world))
    edges = [len(ordered) * piece // pieces for piece in range(pieces + 1)]
    return [ordered[edges[piece] : edges[piece + 1]] for piece in range(rank, pieces, world)]
