"""A mergekit file's slices as parts of the output: which tensors, from which layers, with which settings."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from mergers._assign import Choice
from mergers._groups import group_of, towers_of
from mergers._inputs import Opened
from mergers._mergekit import Module, Reference, Slice, Taken
from mergers._mergekit_chat import chosen, write_template
from mergers._mergekit_values import METHODS, resolve, translate
from mergers._parts import Part
from mergers._settings import method, rehearse
from mergers._sources import FLOATS, Input, Source, Tuned, tied_name
from mergers._spec import MergeSpec
from mergers._stacks import Stack, comes_before, depth, language_names, only_stack, sliced_config, stacks
from mergers._tokenizer import Words, vocabulary_size, with_size
from studio.adapters import Adapter
from studio.checkpoint import Checkpoint
from studio.errors import ConfigError, MergeError
from studio.tensorfile import TORCH_NAMES, torch_type

#: A module's name in a mergekit file -> the towers whose tensors it means.
MODULES = {
    "default": ("llm",),
    "text_decoder": ("llm",),
    "language_model": ("llm",),
    "vision_tower": ("vision",),
    "vision_model": ("vision",),
    "audio_tower": ("audio",),
    "multi_modal_projector": ("projector",),
}
KINDS = {value: key for key, value in TORCH_NAMES.items()}


@dataclass(frozen=True, kw_only=True)
class Slicer:
    """Makes the parts; ``donor`` is the model whose names and files the output has."""

    spec: MergeSpec
    opened: Opened
    donor: Checkpoint

    @cached_property
    def checkpoints(self) -> dict[Reference, Checkpoint]:
        """The full models, by how the file names them; one under an adapter is opened here."""
        recipe = self.spec.recipe
        assert recipe is not None
        found: dict[Reference, Checkpoint] = {}
        for reference, model in zip(recipe.models, self.opened.models, strict=True):
            if isinstance(model, Checkpoint):
                found[reference] = model
                continue
            found[reference] = Checkpoint(reference.model)
            _check_adapter(model, found[reference])
        for module in recipe.modules:
            for piece in module.slices:
                for taken in piece.sources:
                    if taken.model not in found:
                        found[taken.model] = Checkpoint(taken.model.model)
        return found

    def parts(self) -> list[Part]:
        """Return the parts: each module's, and last what no module speaks of, copied from the donor."""
        recipe = self.spec.recipe
        assert recipe is not None
        found: list[Part] = []
        left = dict.fromkeys(self.donor.names())
        for module in recipe.modules:
            names = [name for name in self._names(module, self.donor) if name in left]
            for name in names:
                del left[name]
            found += self._whole(module, names) if module.whole else self._sliced(module, names)
        if left:
            found.append(self._copied({name: name for name in left}))
        return found

    @cached_property
    def words(self) -> Words | None:
        """The output's vocabulary and each model's rows for it; None where all models have just that one."""
        recipe = self.spec.recipe
        assert recipe is not None
        wanted = recipe.tokenizer
        return Words.of(wanted, self.donor, self.checkpoints) if wanted else None

    def adjust(self, folder: Path) -> None:
        """Give a finished output its configuration, and its tokenizer where that is not the donor's."""
        (folder / "config.json").write_text(json.dumps(self.config(), indent=2) + "\n", encoding="utf-8")
        if self.words is not None:
            self.words.vocabulary.write(folder)
        recipe = self.spec.recipe
        assert recipe is not None
        if recipe.chat:
            named = [self.donor.folder, *(checkpoint.folder for checkpoint in self.checkpoints.values())]
            write_template(folder, chosen(recipe.chat, list(dict.fromkeys(named))))

    def config(self) -> dict[str, Any]:
        """Return the output's configuration: layers counted anew, the vocabulary and the tensors' type."""
        recipe = self.spec.recipe
        assert recipe is not None
        config = dict(self.donor.config)
        for module in recipe.modules:
            if not module.whole:
                stack = only_stack(self.donor, self._names(module, self.donor), self._title(module))
                layers: list[tuple[Checkpoint, int]] = []
                for piece in module.slices:
                    first = self._lead(piece)
                    assert first.layers is not None
                    layers += [(self.checkpoints[first.model], i) for i in range(*first.layers)]
                config = sliced_config(config, stack, layers)
        if self.words is not None:
            config = with_size(config, vocabulary_size(self.donor), self.words.vocabulary.size)
        if recipe.stored:
            config = _typed(config, TORCH_NAMES[recipe.stored])
        return config

    def _title(self, module: Module) -> str:
        return f"modules.{module.name}" if module.name else "the language model"

    def _names(self, module: Module, checkpoint: Checkpoint) -> list[str]:
        """Return the tensors of a checkpoint that a module of the file means."""
        names = list(checkpoint.names())
        if not module.name:
            return names if module.whole else language_names(checkpoint)
        if module.name in MODULES:
            towers = towers_of(checkpoint.config)
            found = [n for n in names if group_of(n, towers).tower in MODULES[module.name]]
        elif module.name in ("encoder", "decoder"):
            found = [n for n in names if module.name in n.split(".")]
        else:
            found = [n for n in names if n.startswith(f"{module.name}.")]
        if not found:
            known = ", ".join((*MODULES, "encoder", "decoder"))
            raise ConfigError(
                f"modules.{module.name} means no tensor of {checkpoint.folder}; known are {known} and the "
                "beginnings of its tensors' names"
            )
        return found

    def _whole(self, module: Module, names: Sequence[str]) -> list[Part]:
        piece = module.slices[0]
        some = {name: name for name in names}
        complete = len(some) == len(self.donor)
        views = {taken.model: some if not complete else None for taken in piece.sources}
        found = stacks(names)
        return [self._part(module, piece, some, views, lambda name: depth(found, name))]

    def _sliced(self, module: Module, names: Sequence[str]) -> list[Part]:
        stack = only_stack(self.donor, names, self._title(module))
        loose = [name for name in names if stack.place(name) is None]
        before = [name for name in loose if comes_before(name)]
        after = [name for name in loose if not comes_before(name)]
        parts, layer = [], 0
        if before:
            parts.append(self._loose(module, module.slices[0], before))
        for piece in module.slices:
            part, count = self._layers(module, piece, stack, layer)
            parts.append(part)
            layer += count
        if after:
            parts.append(self._loose(module, module.slices[-1], after))
        return parts

    def _loose(self, module: Module, piece: Slice, names: Sequence[str]) -> Part:
        views: dict[Reference, dict[str, str] | None] = {}
        for taken in piece.sources:
            checkpoint = self.checkpoints[taken.model]
            own = {}
            for name in names:
                twin = name if name in checkpoint else tied_name(self.donor, name)
                if twin is None or twin not in checkpoint:
                    raise MergeError(f"{taken.model} lacks the tensor '{name}' of {self.donor.folder}")
                own[name] = twin
            views[taken.model] = own
        lead = views[self._lead(piece).model]
        assert lead is not None
        return self._part(module, piece, lead, views, lambda name: 0.0)

    def _layers(self, module: Module, piece: Slice, stack: Stack, start: int) -> tuple[Part, int]:
        views: dict[Reference, dict[str, str] | None] = {}
        count = 0
        for taken in piece.sources:
            checkpoint = self.checkpoints[taken.model]
            own = only_stack(checkpoint, self._names(module, checkpoint), self._title(module))
            assert taken.layers is not None
            begin, end = taken.layers
            if end > own.count:
                raise MergeError(
                    f"layer_range [{begin}, {end}] goes beyond the {own.count} layers of {taken.model}"
                )
            count = end - begin
            view = {}
            for name in checkpoint.names():
                place = own.place(name)
                if place is not None and begin <= place[0] < end:
                    view[stack.name(start + place[0] - begin, place[1])] = name
            views[taken.model] = dict(sorted(view.items(), key=lambda item: _order(stack, item[0])))
        lead = views[self._lead(piece).model]
        assert lead is not None

        def deep(name: str) -> float:
            place = stack.place(name)
            assert place is not None
            return (place[0] - start) / (count - 1) if count > 1 else 1.0

        return self._part(module, piece, lead, views, deep), count

    def _lead(self, piece: Slice) -> Taken:
        """Return the source that tells a slice's names and shapes: its base, or else the first."""
        return next((taken for taken in piece.sources if taken.model == piece.base), piece.sources[0])

    def _copied(self, names: Mapping[str, str]) -> Part:
        donor = self.donor.renamed(names)
        towers = towers_of(self.donor.config)
        choices = {name: Choice(group=group_of(name, towers).label) for name in names}
        stored = {name: self._kind(donor, (), name) for name in names}
        return Part(donor=donor, base=None, sources=(), numbers=(), choices=choices, stored=stored)

    def _part(
        self,
        module: Module,
        piece: Slice,
        names: Mapping[str, str],
        views: Mapping[Reference, dict[str, str] | None],
        deep: Callable[[str], float],
    ) -> Part:
        """Return a part: ``names`` {in the output: in the lead}, ``views`` the same for each model."""
        recipe = self.spec.recipe
        assert recipe is not None
        rule = METHODS[recipe.method]
        lead = self._lead(piece)
        donor = self.checkpoints[lead.model].renamed(names)
        taken = list(piece.sources if rule.takes_base else piece.inputs)
        if rule.takes_base and rule.base == "needed":  # from the base to the other
            taken.sort(key=lambda one: one.model != piece.base)
        peers = {one.model: self._source(one.model, donor, views[one.model]) for one in piece.sources}
        tables = self.words.tensors & set(names) if self.words else frozenset[str]()
        if self.words is not None and tables:
            peers = self.words.align(peers, piece.base, tables)
        made = [peers[one.model] for one in taken]
        shared = (piece.parameters, module.parameters, recipe.parameters)
        towers, known = towers_of(self.donor.config), set[str]()
        choices: dict[str, Choice] = {}
        for name in names:
            label = group_of(name, towers).label
            choices[name] = Choice(group=label)
            if not taken or donor.entry(name).kind not in FLOATS:
                if name in tables:
                    raise MergeError(f"tokenizer_source cannot align '{name}', which nothing is merged with")
                continue
            inputs = [
                ((views[one.model] or names).get(name, name), (one.parameters, *shared)) for one in taken
            ]
            values = resolve(recipe.method, inputs, shared, name, deep(name))
            chosen, own = translate(recipe.method, values)
            settings = {**method(chosen).PRESETS["mergekit"], **own}
            plain = recipe.method == "passthrough" and settings["scale"] == 1 and lead.model.adapter is None
            if plain and name not in tables:
                continue  # copied as it is
            key = json.dumps([chosen, settings])
            if key not in known:
                rehearse(method(chosen), settings, len(taken))
                known.add(key)
            choices[name] = Choice(group=label, method=chosen, settings=settings)
        base = donor if piece.base is not None and not rule.takes_base else None
        return Part(
            donor=donor,
            base=base,
            guarded=lead.model == piece.base,
            sources=made,
            numbers=tuple(recipe.models.index(one.model) for one in taken),
            choices=choices,
            stored={name: self._kind(donor, made, name) for name in names},
            shapes={name: peers[lead.model].shape(name) for name in tables},
            ground=peers[lead.model] if tables else None,
        )

    def _source(self, reference: Reference, donor: Checkpoint, names: Mapping[str, str] | None) -> Input:
        recipe = self.spec.recipe
        assert recipe is not None
        own = self.checkpoints[reference]
        source = Source(donor=donor, checkpoint=own if names is None else own.renamed(names))
        if reference.adapter is None:
            return source
        adapter = self.opened.models[recipe.models.index(reference)]
        assert isinstance(adapter, Adapter)
        return Tuned(model=source, adapter=Source(donor=own, adapter=adapter), names=names or {})

    def _kind(self, donor: Checkpoint, made: Sequence[Input], name: str) -> str:
        """Return as which type a tensor is stored: as the file says, else the widest of the inputs'."""
        recipe, kind = self.spec.recipe, donor.entry(name).kind
        assert recipe is not None
        if kind not in FLOATS or recipe.stored:
            return recipe.stored if kind in FLOATS else kind
        kinds = {source.kind(name) for source in made} | {kind}
        if len(kinds) == 1 or any(k.startswith("F8") for k in kinds):
            return kind
        widest = torch_type(kind)
        for other in kinds:
            widest = torch.promote_types(widest, torch_type(other))
        return KINDS[str(widest).removeprefix("torch.")]


def _typed(config: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a configuration whose tensors have another type, wherever it tells theirs."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            found[key] = _typed(value, name)
        else:
            found[key] = name if key in ("dtype", "torch_dtype") and value is not None else value
    return found


def _order(stack: Stack, name: str) -> int:
    place = stack.place(name)
    assert place is not None
    return place[0]


def _check_adapter(adapter: Adapter, base: Checkpoint) -> None:
    if adapter.base_fingerprint and adapter.base_fingerprint != base.fingerprint():
        raise MergeError(
            f"{adapter.folder} was trained on {adapter.base}, whose weights are not {base.folder}'s"
        )
