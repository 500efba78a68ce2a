"""Which fast paths a run takes: those that are switched on, pay for its rows, and pass the gate on them.

    speed.packing      rows joined into one sequence, no padding (`packing`)
    speed.products     matrix products by oneDNN, LoRA's in the weight (`matmul`)
    speed.compile      the language model's layers through torch.compile

Each is compared with the plain path on the same few rows, which differ in length as much as the data do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from studio.log import Log
from studio.training.batches import epoch_batches, micro_batches
from studio.training.encoding import Encoded
from studio.training.loss import TokenLoss
from studio.training.matmul import FastProducts, pays
from studio.training.packing import Packing, packing_pays
from studio.training.parity import Gate
from studio.training.processes import Processes
from studio.training.settings import Speed
from studio.types import Batch

Collate = Callable[[Sequence[Batch]], Batch]

#: Rows that the paths are compared on, and steps whose padding decides about packing.
ROWS, STEPS = 4, 50


def take_fast_paths(
    model: Any,
    speed: Speed,
    data: Encoded,
    collate: Collate,
    sizes: tuple[int, int],
    log: Log,
    processes: Processes,
    *,
    dtype: torch.dtype = torch.float32,
) -> Collate:
    """Put fast paths into ``model`` and return how rows become a batch from now on.

    ``sizes`` are the rows of a step and of a micro-batch. The model is whole, and what learns is chosen; one
    that is cut among processes takes no fast path. Every process of a run must come here.
    """
    device = processes.accelerator.device
    decoder = "input_ids" in data.keys(0)
    packing = decoder and (_padding_costs(model, data, sizes) if speed.packing == "auto" else speed.packing)
    plain_cpu = device.type == "cpu" and dtype == torch.float32
    products = not speed.compile and plain_cpu and (pays() if speed.products == "auto" else speed.products)
    if speed.packing is True and not decoder:
        log.say("packing: off, because the model is an encoder with a decoder")
    if not (packing or products or speed.compile):
        return collate
    if next(model.parameters()).device.type != device.type:
        log.say(f"packing, products, compile: off; with speed.strategy={processes.strategy} no process has "
                "the model whole")  # fmt: skip
        return collate

    gate = Gate(model, log, dtype=dtype, agree=processes.agree)
    loss = TokenLoss(model, device, dtype)
    order = sorted(range(len(data)), key=lambda index: data.lengths[index])
    rows = sorted({order[at * (len(order) - 1) // (ROWS - 1)] for at in range(ROWS)})
    items, weights = [data[row] for row in rows], [data.weights[row] for row in rows]
    try:
        plain = gate.measure(lambda: loss(model, collate(items), weights))
        if packing:
            packed = Packing(model, collate)
            if gate.allows("packing", plain, lambda: loss(model, packed(items), weights)):
                collate = packed
        if products:
            fast = FastProducts(model)
            if not gate.allows("products", plain, lambda: loss(model, collate(items), weights)):
                fast.close()
        if speed.compile:
            layers = _layers(model)
            for layer in layers:
                layer.compile(dynamic=True)
            if not gate.allows("compile", plain, lambda: loss(model, collate(items), weights)):
                for layer in layers:
                    layer._compiled_call_impl = None
    finally:
        loss.close()
    return collate


def _layers(model: Any) -> list[torch.nn.Module]:
    """Return the layers of the language model: all alike, so that one compilation serves them."""
    text = model.config.get_text_config()
    wanted = getattr(text, "num_hidden_layers", 0)
    lists = [
        part
        for path, part in model.named_modules()
        if isinstance(part, torch.nn.ModuleList) and path.endswith("layers") and len(part) == wanted
    ]
    return list(lists[-1]) if lists else []


def _padding_costs(model: Any, data: Encoded, sizes: tuple[int, int]) -> bool:
    """Return whether the first steps' rows cost noticeably less packed than padded."""
    text = model.config.get_text_config()
    width, depth = int(text.hidden_size), int(text.num_hidden_layers)
    inner = int(getattr(text, "intermediate_size", 0) or 4 * width)
    lengths = data.lengths
    parts = [
        [lengths[index] for index in part]
        for batch in epoch_batches(lengths, sizes[0], 0, 0)[:STEPS]
        for part in micro_batches(batch, lengths, sizes[1])
    ]
    flash = "flash" in str(getattr(text, "_attn_implementation", ""))
    return packing_pays(
        parts, parameters=depth * (4 * width * width + 3 * width * inner), width=width * depth, flash=flash
    )
