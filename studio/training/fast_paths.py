"""Which fast paths a run takes: those that are switched on, pay for its rows, and pass the gate on them.

    speed.packing        rows joined into one sequence, no padding (`packing`)
    speed.products       matrix products by oneDNN, LoRA's in the weight (`matmul`)
    speed.fused_layers   a decoder's layer as one operation, by these products (`fused_layer`)
    speed.places         positions on several axes once for each row (`places`)
    speed.short_queries  cross-attention projects its few queries, not all that they read (`crossing`)
    speed.compile        the language model's layers through torch.compile
    speed.keep_memory    freed memory stays for the next step (`allocator`), which needs no comparison

Each is compared with the plain path on the same few rows, which differ in length as much as the data do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from studio.log import Log
from studio.training.allocator import keep_freed_memory
from studio.training.batches import epoch_batches, micro_batches
from studio.training.crossing import ShortQueries
from studio.training.encoding import Encoded
from studio.training.fused_layer import FusedLayers
from studio.training.loss import TokenLoss
from studio.training.matmul import FastProducts, pays
from studio.training.packing import Packing, packing_pays
from studio.training.parity import Gate
from studio.training.places import Axes, Places
from studio.training.processes import Processes
from studio.training.settings import Speed
from studio.types import Batch

Collate = Callable[[Sequence[Batch]], Batch]

#: Rows that the paths are compared on, and steps whose padding decides about packing.
ROWS, STEPS = 4, 50


class FastPaths:
    """Puts fast paths into a model, each if it is asked for, pays, and computes the same of a few rows.

    A model that is cut among processes takes none of them; with encoder and decoder, it is never packed.
    Every process of a run must come to each of the questions.
    """

    def __init__(
        self,
        model: Any,
        speed: Speed,
        data: Encoded,
        log: Log,
        processes: Processes,
        *,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        """Ask about ``model``, which is whole, and in which what learns is chosen, for rows of ``data``."""
        self._model, self._speed, self._data, self._log = model, speed, data, log
        self._device, self._dtype = processes.accelerator.device, dtype
        self._gate = Gate(model, log, dtype=dtype, agree=processes.agree)
        self._whole = next(model.parameters()).device.type == self._device.type
        if speed.keep_memory and self._device.type == "cpu":
            keep_freed_memory()
        if not self._whole:
            log.say(
                f"packing, products: off; by strategy={processes.strategy} no process has all of the model"
            )

    def products(self, collate: Collate) -> None:
        """Put linear layers through oneDNN; `speed.compile` has products of its own."""
        plain_cpu = self._device.type == "cpu" and self._dtype == torch.float32
        asked = pays() if self._speed.products == "auto" else self._speed.products
        if not (asked and plain_cpu and self._whole) or self._speed.compile:
            return
        with self._loss(collate) as loss:
            plain = self._gate.measure(loss)
            fast = FastProducts(self._model)
            if not self._gate.allows("products", plain, loss):
                fast.close()
                return
            fused = FusedLayers(_layers(self._model)) if self._speed.fused_layers else ()
            if fused and not self._gate.allows("fused_layers", plain, loss):
                fused.close()

    def places(self, collate: Collate) -> Collate:
        """Return how rows become a batch that knows its positions, if the model gives them several axes."""
        if not (
            self._speed.places and self._whole and Axes(self._model) and "input_ids" in self._data.keys(0)
        ):
            return collate
        made = Places(self._model, collate)
        with self._loss(collate) as plain, self._loss(made) as fast:
            return made if self._gate.allows("places", self._gate.measure(plain), fast) else collate

    def packing(self, collate: Collate, rows: int, micro: int) -> Collate:
        """Return how rows become a batch from now on: ``rows`` are those of a step, ``micro`` of a part."""
        asked = self._speed.packing
        if "input_ids" not in self._data.keys(0):
            if asked is True:
                self._log.say("packing: off, because the model is an encoder beside a decoder")
            return collate
        if not self._whole or not (self._padding_costs(rows, micro) if asked == "auto" else asked):
            return collate
        packed = Packing(self._model, collate)
        with self._loss(collate) as plain, self._loss(packed) as fast:
            return packed if self._gate.allows("packing", self._gate.measure(plain), fast) else collate

    def short_queries(self, collate: Collate) -> None:
        """Let cross-attentions project their few queries instead of all that these look at."""
        if not (self._speed.short_queries and self._whole) or self._dtype != torch.float32:
            return
        fast = ShortQueries(self._model)
        if not len(fast):
            return
        fast.close()
        with self._loss(collate) as loss:
            plain = self._gate.measure(loss)
            fast = ShortQueries(self._model)
            if not self._gate.allows("short_queries", plain, loss):
                fast.close()

    def last_layer(self, collate: Collate) -> torch.nn.Module | None:
        """Return the layer of which a `TokenLoss` computes only what has a label; None for none of them."""
        layers = _layers(self._model)
        if not (self._speed.last_layer and self._whole and layers) or self._speed.compile:
            return None
        last = layers[-1]
        with self._loss(collate) as plain:
            before = self._gate.measure(plain)
        with self._loss(collate, last) as fast:
            return last if self._gate.allows("last_layer", before, fast) else None

    def compiled(self, collate: Collate) -> None:
        """Put the layers of the language model through torch.compile, for batches of any size."""
        if not (self._speed.compile and self._whole):
            return
        with self._loss(collate) as loss:
            plain = self._gate.measure(loss)
            layers = _layers(self._model)
            for layer in layers:
                layer.compile(dynamic=True)
            if not self._gate.allows("compile", plain, loss):
                for layer in layers:
                    layer._compiled_call_impl = None

    @contextmanager
    def _loss(self, collate: Collate, last: torch.nn.Module | None = None) -> Iterator[Callable[[], Tensor]]:
        """Yield what computes the loss of a few rows, as different in length as the data's are."""
        data = self._data
        order = sorted(range(len(data)), key=lambda index: data.lengths[index])
        rows = sorted({order[at * (len(order) - 1) // (ROWS - 1)] for at in range(ROWS)})
        items, weights = [data[row] for row in rows], [data.weights[row] for row in rows]
        loss = TokenLoss(self._model, self._device, self._dtype, last=last)
        try:
            yield lambda: loss(self._model, collate(items), weights)
        finally:
            loss.close()

    def _padding_costs(self, rows: int, micro: int) -> bool:
        """Return whether the first steps' rows cost noticeably less packed than padded."""
        text = self._model.config.get_text_config()
        width, depth = int(text.hidden_size), int(text.num_hidden_layers)
        inner = int(getattr(text, "intermediate_size", 0) or 4 * width)
        lengths = self._data.lengths
        parts = [
            [lengths[index] for index in part]
            for batch in epoch_batches(lengths, rows, 0, 0)[:STEPS]
            for part in micro_batches(batch, lengths, micro, tokens=self._speed.batch_tokens)
        ]
        return packing_pays(
            parts,
            parameters=depth * (4 * width * width + 3 * width * inner),
            width=width * depth,
            flash="flash" in str(getattr(text, "_attn_implementation", "")),
        )


def _layers(model: Any) -> list[torch.nn.Module]:
    """Return the layers of the language model: all alike, so that one compilation serves them."""
    text = model.config.get_text_config()
    wanted = getattr(text, "num_hidden_layers", 0)
    lists = [
        ("language_model" in path or "decoder" in path, part)
        for path, part in model.named_modules()
        if isinstance(part, torch.nn.ModuleList) and path.endswith("layers") and len(part) == wanted
    ]
    lists.sort(key=lambda found: found[0])  # stable: of those that are named so, the last
    return list(lists[-1][1]) if lists else []
