"""One model from several experts, layer by layer: each layer learns to give what the experts' layers give.

RegMean (Jin et al. 2023, arXiv:2212.09849, section 3) solves min over W of sum_i |W X_i - W_i X_i|^2 with the
inputs X_i that expert i's layer sees in expert i. In the merged model that layer sees something else, for the
layers before it are merged, too. So here, as in RegMean++ (Nguyen et al. 2025, arXiv:2508.03121), layers are
solved in the order in which the model runs them: the inputs X'_i are those of the merged model so far, the
targets Y_i are what expert i's layer gives in expert i, and W = (sum_i w_i Y_i X'_i^T) A^-1 with
A = sum_i w_i X'_i X'_i^T.

No gradient is needed, only rows of each domain. What a model has computed before the layer in question is
kept, so the work is some passes over the rows, whatever the number of layers. What is left of the difference
is the whole model's: some steps of distillation (`polished`) close most of it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from graphlib import TopologicalSorter
from typing import Any

import torch
from torch import Tensor, nn

from studio.adapters import Factors
from studio.errors import MergeError
from studio.types import Batch

Experts = Mapping[str, Mapping[str, Factors]]
"""Domain -> module path -> the expert's factors there."""
Rows = Mapping[str, Sequence[Batch]]
"""Domain -> batches of its rows, answers included, padded on the right."""


class _Stop(Exception):
    """Enough of the model has run."""


def layerwise(
    model: nn.Module,
    experts: Experts,
    rows: Rows,
    *,
    weight: Mapping[str, float] | None = None,
    ridge: float = 1e-2,
    repair: float = 1.0,
    answer_weight: float = 3.0,
    balance: float = 0.5,
    advance: Callable[[int], None] = lambda _: None,
) -> dict[str, Tensor]:
    """Return the deltas with which each layer gives what the experts' layers give: module path -> [out, in].

    Args:
        model: the base, in evaluation mode; its weights are those of before when the function returns.
        experts: the factors of each domain's expert.
        rows: batches of each domain, with ``labels``.
        ridge: pull towards the mean of the deltas, in units of the mean squared input; > 0.
        weight: how much a domain counts beyond what balances them; 1 by default.
        repair: 0 to 1; share of what the merged model's stream lacks so far that a layer which writes into
            the stream is asked to make up.
        answer_weight: how often a position whose next token is learned counts.
        balance: 0 to 1; a domain counts by 1 / (E^(1 - balance) G^balance), with E the energy of what its
            expert's layer gives and G the energy of what its delta gains.
        advance: is told of each unit done.
    """
    merge = _Merge(model, experts, rows, answer_weight, balance)
    try:
        with torch.no_grad():
            for unit in merge.units:
                merge.expert_pass(unit)
                for group in merge.groups:
                    merge.solve(group, ridge, weight or {}, repair)
                merge.merged_pass(unit)
                advance(1)
        return merge.found
    finally:
        merge.restore()


class _Line:
    """One batch of one domain on its way through one model: what it is before the unit in question."""

    def __init__(self, domain: str, batch: Batch, answer_weight: float) -> None:
        self.domain = domain
        # A cache of keys and values would grow with every run of a unit.
        self.inputs = {key: value for key, value in batch.items() if key != "labels"} | {"use_cache": False}
        self.outputs: dict[str, dict[str, Any]] = {"expert": {}, "merged": {}}  # stream -> unit -> output
        self.calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}  # unit -> what else it is given
        self.before: dict[str, Tensor] = {}  # stream -> what goes into the unit [tokens, hidden]
        self.taken: list[tuple[Tensor, str]] = []
        self.given: dict[str, Tensor] = {}  # path -> what the expert's layer gives [tokens, out]
        learned = torch.zeros_like(batch["attention_mask"], dtype=torch.float32)
        learned[:, :-1] = (batch["labels"][:, 1:] != -100).float()
        self.shape = tuple(batch["attention_mask"].shape)
        self.weight = (batch["attention_mask"].float() * (1 + (answer_weight - 1) * learned)).flatten()


class _Merge:
    def __init__(
        self, model: nn.Module, experts: Experts, rows: Rows, answer_weight: float, balance: float
    ) -> None:
        self.model, self.experts, self.balance = model, experts, balance
        self.modules = dict(model.named_modules())
        self.paths = list(dict.fromkeys(path for modules in experts.values() for path in modules))
        self.base = {path: self.modules[path].weight.detach().clone() for path in self.paths}
        self.lines = [_Line(d, batch, answer_weight) for d, batches in rows.items() for batch in batches]
        self.unit = {path: _unit(self.modules, path) for path in self.paths}
        self.before: dict[str, str] = {}  # unit -> the unit whose output is all that it is given anew
        self.found: dict[str, Tensor] = {}
        self.groups: list[list[str]] = []
        self.writers: list[str] = []
        self.units = self._order()
        self.done: list[str] = []

    # -- which unit runs when ------------------------------------------------------------------------

    def _order(self) -> list[str]:
        """Return the units in an order that every batch's run agrees with; note what each is given.

        Raises:
            MergeError: a unit that runs more than once in one run.
        """
        after: dict[str, set[str]] = {}
        feeds: dict[str, set[str]] = {}
        for line in self.lines:
            made: dict[str, Tensor] = {}

            def note(
                _m: Any, args: Any, kwargs: Any, unit: str, line: _Line = line, made: Any = made
            ) -> None:
                if unit in line.calls:
                    raise MergeError(
                        f"'{unit}' runs more than once on one batch, so it cannot be solved alone"
                    )
                last = next(reversed(line.calls), "")
                rest = {key: value for key, value in kwargs.items() if key != "hidden_states"}
                line.calls[unit] = (tuple(args[1:]), rest)
                into = args[0] if args else kwargs["hidden_states"]
                same = last in made and made[last].shape == into.shape and torch.equal(made[last], into)
                feeds.setdefault(unit, set()).add(last if same else "")

            def keep(_m: Any, _i: Any, output: Any, unit: str, made: Any = made) -> None:
                made.clear()
                made[unit] = _stream(output)

            handles = []
            for unit in dict.fromkeys(self.unit.values()):
                module = self.modules[unit]
                handles.append(module.register_forward_pre_hook(partial(note, unit=unit), with_kwargs=True))
                handles.append(module.register_forward_hook(partial(keep, unit=unit)))
            try:
                self.model(**line.inputs)
            finally:
                for handle in handles:
                    handle.remove()
            order = list(line.calls)
            for before, unit in zip([None, *order], order, strict=False):
                after.setdefault(unit, set()).update({before} if before else ())
        self.before = {unit: next(iter(own)) for unit, own in feeds.items() if len(own) == 1 and own != {""}}
        return list(TopologicalSorter(after).static_order())

    # -- running -------------------------------------------------------------------------------------

    @contextmanager
    def _replaying(self, line: _Line, stream: str) -> Iterator[None]:
        """Let units that are done return what they gave."""
        kept = line.outputs[stream]
        patched = []
        try:
            for unit in self.done:
                if unit in line.calls:
                    module = self.modules[unit]
                    module.forward = lambda *a, unit=unit, **k: kept[unit]
                    patched.append(module)
            yield
        finally:
            for module in patched:
                del module.forward

    def _run(self, line: _Line, stream: str, unit: str, hooks: Mapping[str, Callable[..., Any]]) -> None:
        """Run the model as far as a unit, or the unit alone where what goes into it is known."""
        handles = [
            self.modules[path].register_forward_hook(hook, with_kwargs=True) for path, hook in hooks.items()
        ]
        try:
            if (before := self.before.get(unit)) is not None:
                # Beside the stream it is given what does not depend on weights: masks, places.
                rest, named = line.calls[unit]
                self.modules[unit](_stream(line.outputs[stream][before]), *rest, **named)
            else:
                with self._replaying(line, stream):
                    self.model(**line.inputs)
        except _Stop:
            pass
        finally:
            for handle in handles:
                handle.remove()

    def _lines_of(self, unit: str) -> list[_Line]:
        return [line for line in self.lines if unit in line.calls]

    def expert_pass(self, unit: str) -> None:
        """Run the unit with each expert's weights on what the expert has made so far; note what comes out."""
        paths = [path for path in self.paths if self.unit[path] == unit]
        domain = None
        for line in self._lines_of(unit):  # a domain's stand together
            if line.domain != domain:
                domain = line.domain
                for path in paths:
                    factors = self.experts[domain].get(path)
                    self._put(path, self.base[path] + factors.delta() if factors else self.base[path])
            line.given = {}

            def note(module: Any, args: Any, kwargs: Any, output: Any, path: str, line: _Line = line) -> None:
                line.given[path] = output.reshape(-1, output.shape[-1])
                line.taken.append((args[0], path))

            line.taken = []
            hooks: dict[str, Any] = {path: partial(note, path=path) for path in paths}
            hooks[unit] = self._ending(line, "expert", unit, hooks.get(unit))
            self._run(line, "expert", unit, hooks)
        # Layers that are given one and the same tensor are solved together.
        first = self._lines_of(unit)[0]
        shared: dict[int, list[str]] = {}
        for taken, path in first.taken:
            shared.setdefault(id(taken), []).append(path)
        self.groups = list(shared.values())
        for path in paths:
            self._put(path, self.base[path] + self._mean(path))
        self.writers = self._writers(unit, first)
        for line in self._lines_of(unit):
            line.taken = []

    def _ending(self, line: _Line, stream: str, unit: str, also: Any = None) -> Callable[..., None]:
        def end(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            if also is not None:
                also(module, args, kwargs, output)
            into = args[0] if args else kwargs["hidden_states"]
            line.before[stream] = into.reshape(-1, into.shape[-1])
            line.outputs[stream][unit] = output
            raise _Stop

        return end

    def merged_pass(self, unit: str) -> None:
        """Run the finished unit on what the merged model has made so far."""
        for line in self._lines_of(unit):
            self._run(line, "merged", unit, {unit: self._ending(line, "merged", unit)})
            if all(self.before.get(each) for each in self.units[len(self.done) :]):
                # What is left runs unit after unit, and asks for nothing older.
                for stream in line.outputs.values():
                    stream.pop(self.before[unit], None)
        self.done.append(unit)

    def _writers(self, unit: str, line: _Line) -> list[str]:
        """Return the layers whose outputs the unit adds to what goes into it, if that is all it does."""
        alone = [group[0] for group in self.groups if len(group) == 1]
        if unit in self.paths:
            return []
        out = line.outputs["expert"][unit]
        out = _stream(out)
        total = line.before["expert"]
        writers = [path for path in alone if line.given[path].shape == total.shape]
        for path in writers:
            total = total + line.given[path]
        if out.numel() != total.numel():
            return []
        near = torch.allclose(total, out.reshape(total.shape), rtol=1e-3, atol=1e-3 * float(out.std()))
        return writers if near else []

    # -- solving -------------------------------------------------------------------------------------

    def solve(self, group: Sequence[str], ridge: float, weight: Mapping[str, float], repair: float) -> None:
        """Find the weights of layers that share their input, and put them into the model."""
        unit = self.unit[group[0]]
        squares: dict[str, Tensor] = {}  # domain -> X'^T X' [in, in]
        forces: dict[str, dict[str, Tensor]] = {path: {} for path in group}  # Y^T X' [out, in]
        energy: dict[str, dict[str, list[float]]] = {path: {} for path in group}
        earlier = self.writers[: self.writers.index(group[0])] if group[0] in self.writers else []
        repairing = repair > 0 and group[0] in self.writers
        for line in self._lines_of(unit):
            x, before = self._inputs(line, group[0], earlier if repairing else [], unit if repairing else "")
            w = line.weight if len(x) == len(line.weight) else torch.ones(len(x))
            heavy = x * w[:, None]
            squares[line.domain] = squares.get(line.domain, 0) + (heavy.T @ x).double()
            for path in group:
                bias = self.modules[path].bias
                y = line.given[path] - (bias if bias is not None else 0.0)
                if repairing:
                    lack = line.before["expert"] - before
                    for writer in earlier:
                        lack = lack + line.given[writer]
                    y = y + repair * lack
                forces[path][line.domain] = forces[path].get(line.domain, 0) + (y.T @ heavy).double()
                gained = y - x @ self.base[path].T
                known = energy[path].setdefault(line.domain, [0.0, 0.0])
                known[0] += float((gained.square() * w[:, None]).sum())
                known[1] += float((y.square() * w[:, None]).sum())
        for path in group:
            a, c = 0.0, 0.0
            for domain, force in forces[path].items():
                gained, given = energy[path][domain]
                if given <= 0:
                    continue
                share = weight.get(domain, 1.0) / (
                    max(gained, 1e-3 * given) ** self.balance * given ** (1 - self.balance)
                )
                a, c = a + share * squares[domain], c + share * force
            if isinstance(a, float):
                continue
            held = ridge * float(a.diagonal().mean())
            prior = (self.base[path] + self._mean(path)).double()
            a = a + held * torch.eye(len(a), dtype=a.dtype)
            solved = torch.linalg.solve(a, (c + held * prior).T).T
            self.found[path] = (solved - self.base[path].double()).to(self.base[path].dtype)
            self._put(path, solved.to(self.base[path].dtype))

    def _inputs(
        self, line: _Line, path: str, earlier: Sequence[str], unit: str
    ) -> tuple[Tensor, Tensor | None]:
        """Return what goes into a layer in the merged model so far, and the stream it writes into."""
        caught: dict[str, Tensor] = {}

        def catch(module: Any, args: Any, kwargs: Any) -> None:
            caught["x"] = args[0].reshape(-1, args[0].shape[-1])
            raise _Stop

        def enter(module: Any, args: Any, kwargs: Any) -> None:
            into = args[0] if args else kwargs["hidden_states"]
            caught["stream"] = into.reshape(-1, into.shape[-1])

        def write(module: Any, args: Any, kwargs: Any, output: Any) -> None:
            caught["stream"] = caught["stream"] + output.reshape(caught["stream"].shape)

        handles = [self.modules[path].register_forward_pre_hook(catch, with_kwargs=True)]
        if unit:
            handles.append(self.modules[unit].register_forward_pre_hook(enter, with_kwargs=True))
        try:
            self._run(line, "merged", self.unit[path], {name: write for name in earlier})
        finally:
            for handle in handles:
                handle.remove()
        return caught["x"], caught.get("stream")

    # -- weights -------------------------------------------------------------------------------------

    def _mean(self, path: str) -> Tensor:
        deltas = [modules[path].delta() for modules in self.experts.values() if path in modules]
        return torch.stack(deltas).sum(0) / len(self.experts)

    def _put(self, path: str, weight: Tensor) -> None:
        self.modules[path].weight.data.copy_(weight)

    def restore(self) -> None:
        """Give the base its own weights back."""
        for path, weight in self.base.items():
            self._put(path, weight)


def count_units(model: nn.Module, experts: Experts) -> int:
    """Return how often `layerwise` tells of progress, at most."""
    modules = dict(model.named_modules())
    return len({_unit(modules, path) for own in experts.values() for path in own})


def _unit(modules: Mapping[str, nn.Module], path: str) -> str:
    """Return the outermost list element that a module is in, or the module itself."""
    parts = path.split(".")
    for end in range(1, len(parts)):
        head = ".".join(parts[:end])
        if isinstance(modules[head], nn.ModuleList) and end + 1 < len(parts):
            return ".".join(parts[: end + 1])
    return path


def _stream(output: Any) -> Tensor:
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found
