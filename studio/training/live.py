"""Which tensors are alive at the worst moment of a step, counted by the part of the model that made them.

Every operation passes through here (`TorchDispatchMode`), forward, backward and what checkpointing computes
again; a storage counts from the operation that makes it until Python and autograd have let go of it. Views
count once. What an operation takes for itself and gives back before it ends is not seen.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from studio.training.rules import tower_of
from studio.training.towers import own_path
from studio.types import Family

#: What is made outside every tower: the loss with its logits, and the gradients on their way back.
REST = "loss and backward"


class Live(TorchDispatchMode):
    """A context that counts: ``peak`` bytes alive at the worst moment, and ``at_peak`` by tower."""

    def __init__(self, model: Any, family: Family, known: Iterable[Tensor] = ()) -> None:
        """Count what a ``model`` of a ``family`` makes; its own and the ``known`` tensors do not count."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak, self.at_peak = 0, Counter[str]()
        self._now, self._total = Counter[str](), 0
        self._own = {id(s): s for s in map(_storage, [*model.parameters(), *model.buffers(), *known])}
        self._alive: dict[int, weakref.ref[Any]] = {}
        self._where = [REST]
        self._hooks: list[Any] = []
        self._model, self._family = model, family

    def __enter__(self) -> Live:
        """Begin to count."""
        for name, module in self._model.named_modules():
            tower = tower_of(own_path(name), self._family)
            if tower is not None:
                self._hooks.append(module.register_forward_pre_hook(self._enters(tower)))
                self._hooks.append(module.register_forward_hook(self._leaves, always_call=True))
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop counting."""
        super().__exit__(*error)  # type: ignore[no-untyped-call]
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run an operation and count what it made."""
        made = func(*args, **(kwargs or {}))
        for value in (made,) if isinstance(made, Tensor) else tree_leaves(made):
            if isinstance(value, Tensor):
                self._count(value)
        return made

    def _count(self, tensor: Tensor) -> None:
        storage = _storage(tensor)
        key = id(storage)
        if key in self._own or key in self._alive:
            return
        tower, size = self._where[-1], storage.nbytes()

        def gone(_: Any) -> None:
            self._alive.pop(key, None)
            self._now[tower] -= size
            self._total -= size

        self._alive[key] = weakref.ref(storage, gone)
        self._now[tower] += size
        self._total += size
        if self._total > self.peak:
            self.peak, self.at_peak = self._total, self._now.copy()

    def _enters(self, tower: str) -> Any:
        def hook(*_: Any) -> None:
            self._where.append(tower)

        return hook

    def _leaves(self, *_: Any) -> None:
        self._where.pop()


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()
