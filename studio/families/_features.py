"""What frozen towers make of media, computed once and given to a model in their place: the common ways.

A model that takes ``mm_encoder_outputs`` gets features of pictures there; others get them written over the
embeddings of the places that stand for the medium. Whatever learns behind the towers (a projector, the mark
at the end of a row of tiles) is computed in every step, from what goes into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from studio.later import torch
from studio.types import Batch, Feature

if TYPE_CHECKING:
    from torch import Tensor

Project = Callable[[Any, Mapping[str, Any], Sequence["Tensor"]], "list[Tensor]"]


def pictures(
    *,
    takes: tuple[str, ...] = ("pixel_values",),
    reads: tuple[str, ...] = (),
    extra: tuple[str, ...] = (),
    vision: str = "model.vision_tower",
    projector: tuple[str, ...] = ("model.multi_modal_projector",),
    listed: bool = False,
    order: Callable[[Any, Batch, list[Tensor]], list[Tensor]] = lambda model, batch, caught: caught,
    project: Project | None = None,
) -> Feature:
    """Return how pictures' features are computed by ``get_image_features`` and given.

    ``listed`` models want them as a sequence. ``order`` puts what goes into the projectors into the order of
    the media; ``project`` makes of it what the language model takes, by default the projectors alone.
    ``extra`` are parameters that come after the projectors, and learn with the language model.
    """

    def compute(model: Any, batch: Batch, projected: bool) -> list[Tensor]:
        inputs = {key: batch[key] for key in (*takes, *reads) if key in batch}
        with into(model, projector) as caught:
            made = model.model.get_image_features(**inputs, return_dict=True)
        if not projected:
            return order(model, batch, [caught[name] for name in sorted(caught)])
        return [_rows(made.pooler_output), *map(_rows, getattr(made, "deepstack_features", None) or ())]

    def give(
        model: Any, inputs: Mapping[str, Any], features: Sequence[Tensor], projected: bool
    ) -> dict[str, Any]:
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        if not projected:
            features = project(model, inputs, features) if project else through(model, projector, features)
        first, *more = features
        made = BaseModelOutputWithPooling(pooler_output=(first,) if listed else first)
        if more:
            made["deepstack_features"] = [(each,) for each in more]
        return {"mm_encoder_outputs": {"image": made}}

    return Feature(
        takes=takes,
        reads=reads,
        parts=(vision, *projector, *extra),
        projectors=(*projector, *extra),
        compute=compute,
        give=give,
    )


def sounds(
    *,
    takes: tuple[str, ...] = ("input_features",),
    reads: tuple[str, ...] = (),
    audio: str = "model.audio_tower",
    projector: str | None = "model.multi_modal_projector",
    more: tuple[str, ...] = (),
    either: bool = False,
    compute: Callable[[Any, Batch], Tensor] | None = None,
) -> Feature:
    """Return how sounds' features are computed, and put over the places of the sounds in the text.

    ``compute`` returns the frames [n, D] that stand in the text, projected; by default they are the pooled
    output of ``get_audio_features``. What goes into the projector has to be rows like them; where it is not,
    or there are several, ``projector`` is None and ``more`` names the modules after the tower. ``either``:
    the model takes ids or embeddings, not both.
    """

    last = (projector,) if projector else ()

    def heard(model: Any, batch: Batch) -> Tensor:
        inputs = {key: batch[key] for key in (*takes, *reads) if key in batch}
        return _rows(model.model.get_audio_features(**inputs, return_dict=True).pooler_output)

    def both(model: Any, batch: Batch, projected: bool) -> list[Tensor]:
        with into(model, last) as caught:
            made = (compute or heard)(model, batch)
        return [made if projected else caught[0]]

    def give(
        model: Any, inputs: Mapping[str, Any], features: Sequence[Tensor], projected: bool
    ) -> dict[str, Any]:
        rows = features[0] if projected else through(model, last, features)[0]
        found = over_places(model, inputs, model.config.audio_token_id, rows)
        return {"input_ids": None, **found} if either else found

    return Feature(
        takes=takes,
        reads=reads,
        parts=(audio, *last, *more),
        projectors=last,
        compute=both,
        give=give,
    )


def through(model: Any, projectors: Sequence[str], features: Sequence[Tensor]) -> list[Tensor]:
    """Return what the projectors make of what goes into each of them, as rows [n, D]."""
    modules = [module for _, module in _modules(model, projectors)]
    return [_rows(module(each)) for module, each in zip(modules, features, strict=True)]


def out_of_windows(model: Any, batch: Batch, caught: list[Tensor]) -> list[Tensor]:
    """Return patches [P, D] in the order of the pictures, which Qwen2.5's vision tower leaves in windows."""
    visual = model.model.visual
    if not hasattr(visual, "window_size"):
        return caught
    from transformers.vision_utils import get_vision_window_index

    index, _ = get_vision_window_index(
        batch["image_grid_thw"],
        spatial_merge_size=visual.spatial_merge_size,
        window_size=visual.window_size,
        patch_size=visual.patch_size,
    )
    group = visual.spatial_merge_size**2
    return [each.view(-1, group, each.shape[-1])[index.argsort()].flatten(0, 1) for each in caught]


def over_places(model: Any, inputs: Mapping[str, Any], token: int, features: Tensor) -> dict[str, Any]:
    """Return the embeddings [B, L, D] of ``input_ids``, with features [n, D] at the places of ``token``.

    Raises:
        ValueError: if there are not n places.
    """
    ids = inputs["input_ids"]
    embeddings = inputs.get("inputs_embeds")
    places = ids == token
    if embeddings is None:
        table = model.get_input_embeddings()
        # A token beyond the table has a place in the text only; others look as they always do.
        embeddings = table(ids.masked_fill(places, 0) if token >= table.num_embeddings else ids)
    if int(places.sum()) != len(features):
        raise ValueError(f"{int(places.sum())} places for {len(features)} features")
    features = features.to(embeddings.device, embeddings.dtype)
    return {"inputs_embeds": embeddings.masked_scatter(places.unsqueeze(-1), features)}


@contextmanager
def into(model: Any, paths: Sequence[str]) -> Iterator[dict[int, Tensor]]:
    """Yield what goes into the modules at ``paths`` while the block runs, by their place in the list."""
    caught: dict[int, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(
            lambda _module, args, named, number=number: caught.__setitem__(
                number, args[0] if args else next(iter(named.values()))
            ),
            with_kwargs=True,
        )
        for number, module in _modules(model, paths)
    ]
    try:
        yield caught
    finally:
        for hook in hooks:
            hook.remove()


def _modules(model: Any, paths: Sequence[str]) -> Iterator[tuple[int, Any]]:
    """Yield the modules at ``paths`` with numbers; a list of modules counts as its members."""
    found: list[Any] = []
    for path in paths:
        try:
            module = model.get_submodule(path)
        except AttributeError:  # not every kind of model in a family has it
            continue
        found += list(module) if isinstance(module, torch.nn.ModuleList) else [module]
    yield from enumerate(found)


def _rows(features: Any) -> Tensor:
    """Return features as rows [n, D], however a model cuts them by picture."""
    rows: Tensor = features if isinstance(features, torch.Tensor) else torch.cat(list(features))
    return rows.flatten(0, -2)
