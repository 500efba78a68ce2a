"""What a processor makes of pixels, as a function that has a gradient: found by asking it.

Vision processors resize, scale each channel, and put the values into patches or tiles. Resizing is written
here with an operation through which gradients flow. Behind it, every element of what comes out is one value
of one pixel, times a number, plus a number: which value, and which numbers, is read off pictures that spell
out the number of each pixel in the digits of base 256. Nothing is assumed of the layout; a processor that
does more (tiles of several sizes) gives itself away: what is made here of a row is not what it makes.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from studio.adversarial_files import elsewhere
from studio.errors import DataError
from studio.media import load_image, save_image
from studio.types import Batch, Family, Image, Sample

#: How far an element may be off what the processor makes, in pixel values: it rounds what it has resized.
EXACT, RESIZED = 0.5, 4.5
#: What PIL's numbers of ways to resize are called by torch.
_WAYS = {2: "bilinear", 3: "bicubic"}
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where pixels go: element e of the tensor ``key`` is ``low[e] + span[e] * values[place[e]] / 255``.

    ``values`` [N] are those of all pictures at the model's ``sizes``, by height, width and channel; ``way``
    is how pictures are resized to them.
    """

    key: str
    low: Tensor
    span: Tensor
    place: Tensor
    sizes: tuple[Size, ...]
    way: str

    def filled(self, values: Tensor, own: Sequence[Size]) -> Tensor:
        """Return the tensor that the values [M] of pictures of their ``own`` sizes make."""
        parts = [
            picture if size == wanted else self._resized(picture, wanted)
            for picture, size, wanted in zip(cut(values, own), own, self.sizes, strict=True)
        ]
        seen = torch.cat([part.reshape(-1) for part in parts])
        return self.low + self.span * seen[self.place] / 255

    def _resized(self, picture: Tensor, size: Size) -> Tensor:
        """Return a picture [H, W, 3] of another size: across, then down, in whole values after each."""
        made = picture.permute(2, 0, 1)[None]
        for wanted in ((len(picture), size[1]), size):
            made = torch.nn.functional.interpolate(
                made, size=wanted, mode=self.way, antialias=True, align_corners=False
            ).clamp(0, 255)
            made = made + (made.round() - made).detach()  # rounding has no gradient that is of use
        return made[0].permute(1, 2, 0)


@dataclass(frozen=True, kw_only=True)
class Pixels:
    """One row's pictures as values [N] from 0 to 255, N over pictures, height, width and channels."""

    sample: Sample
    item: Batch
    layout: Layout
    sizes: tuple[Size, ...]
    clean: Tensor
    bottom: float = 0.0
    top: float = 255.0
    step: float = 1.0

    def encoded(self, values: Tensor) -> Batch:
        """Return the row's tensors with these values, through which gradients flow."""
        return {**self.item, self.layout.key: self.layout.filled(values, self.sizes)}

    def saved(self, values: Tensor, folder: Path, name: str) -> Sample:
        """Return the row with pictures of these values, which are whole numbers, written to ``folder``."""
        return _with_pictures(self.sample, cut(values, self.sizes), folder, name)


class PixelReader:
    """Reads rows of one family as `Pixels`; what is found out about a processor is kept by sizes."""

    def __init__(self, family: Family, processor: Any, folder: Path) -> None:
        """Ask ``processor``, with pictures that are written to ``folder`` and removed."""
        self._family, self._processor, self._folder = family, processor, folder
        self._plain = copy.copy(processor)  # the model's own is left as it is: others may be using it
        inner = getattr(processor, "image_processor", None)
        if inner is not None:
            self._plain.image_processor = copy.copy(inner)
            self._plain.image_processor.do_resize = False
        self._way = _WAYS.get(int(getattr(inner, "resample", None) or 3), "bicubic")
        self._known: dict[tuple[Any, ...], Layout] = {}

    def read(self, sample: Sample) -> Pixels:
        """Return a row with pictures.

        Raises:
            DataError: if the processor does more than resize, scale and arrange.
        """
        item = self._family.encode(self._processor, sample, True)
        pictures = [np.asarray(load_image(image.path), dtype=np.float32) for image in sample.images]
        sizes = self._sizes(item, len(pictures))
        shape = (sizes, tuple(type(part).__name__ for turn in sample.turns for part in turn.parts))
        if shape not in self._known:
            self._known[shape] = self._layout(sample, sizes)
        layout = self._known[shape]
        made = Pixels(
            sample=sample,
            item=item,
            layout=layout,
            sizes=tuple((each.shape[0], each.shape[1]) for each in pictures),
            clean=torch.from_numpy(np.concatenate([each.reshape(-1) for each in pictures])),
        )
        own = item[layout.key].float()
        allowed = EXACT if made.sizes == sizes else RESIZED
        if own.shape != layout.low.shape or bool(
            ((layout.filled(made.clean, made.sizes) - own).abs() > allowed / 255 * layout.span + 1e-6).any()
        ):
            raise self._refusal(sample)
        return made

    def _sizes(self, item: Batch, count: int) -> tuple[Size, ...]:
        """Return height and width of each picture at the model's resolution."""
        if "image_grid_thw" in item:
            patch = int(self._processor.image_processor.patch_size)
            return tuple((patch * int(grid[1]), patch * int(grid[2])) for grid in item["image_grid_thw"])
        height, width = (int(side) for side in item["pixel_values"].shape[-2:])
        return ((height, width),) * count

    def _layout(self, sample: Sample, sizes: tuple[Size, ...]) -> Layout:
        """Return where the pixels of pictures of these sizes go."""
        number = np.arange(sum(height * width for height, width in sizes))

        def made(values: Any) -> Batch:
            each = np.broadcast_to(values, (len(number), 3)).reshape(-1)
            shown = torch.from_numpy(np.ascontiguousarray(each, dtype=np.float32))
            probe = _with_pictures(sample, cut(shown, sizes), self._folder, "probe")
            try:
                return self._family.encode(self._plain, probe, True)
            finally:
                for image in probe.images:
                    image.path.unlink()

        dark, light = made(0), made(255)
        keys = [
            key
            for key, each in dark.items()
            if each.shape != light[key].shape or not torch.equal(each, light[key])
        ]
        if len(keys) != 1 or dark[keys[0]].shape != light[keys[0]].shape:
            raise self._refusal(sample)
        (key,) = keys
        low, span = dark[key].float(), (light[key] - dark[key]).float()
        scale = torch.where(span == 0, 1.0, span)

        def digits(values: Any) -> Tensor:
            return (255 * (made(values)[key].float() - low) / scale).round().long()

        place = torch.zeros(low.shape, dtype=torch.long)
        for power in range(max(1, -(-int(len(number) - 1).bit_length() // 8))):
            place += digits((number >> (8 * power) & 255)[:, None]) << (8 * power)
        place = 3 * place + digits(np.array([[0, 100, 200]])) // 100
        place = torch.where(span == 0, 0, place).clamp(0, 3 * len(number) - 1)
        return Layout(key=key, low=low, span=span, place=place, sizes=sizes, way=self._way)

    def _refusal(self, sample: Sample) -> DataError:
        return DataError(
            f"{sample.where}: pictures of family {self._family.name} cannot be attacked, because its "
            "processor does more with them than resize, scale and cut"
        )


def cut(values: Tensor, sizes: Sequence[Size]) -> list[Tensor]:
    """Return values [N] as pictures [H, W, 3]."""
    parts = torch.split(values, [3 * height * width for height, width in sizes])
    return [part.view(height, width, 3) for part, (height, width) in zip(parts, sizes, strict=True)]


def _with_pictures(sample: Sample, pictures: Sequence[Tensor], folder: Path, name: str) -> Sample:
    """Return a row with these pictures [H, W, 3] in the places of its own."""
    made, paths = elsewhere(sample, Image, folder, name)
    for path, picture in zip(paths, pictures, strict=True):
        save_image(path, picture.detach().numpy().round().astype(np.uint8))
    return made
