from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from studio.training.encoding import Encoded
from studio.training.shards import Codes, Shard, ShardWriter


def item(**media: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": torch.arange(5), "labels": torch.tensor([-100, -100, 2, 3, 4]), **media}


def levels(patches: int, width: int, seed: int = 0) -> torch.Tensor:
    """Return what a processor makes of 8-bit pixels: 256 values scaled for each of three colours."""
    draw = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (patches, 3, width), generator=draw)
    mean, std = torch.tensor([[0.48, 0.45, 0.40], [0.26, 0.27, 0.28]]).view(2, 1, 3, 1)
    return (pixels / 255 - mean) / std


def written(folder: Path, *items: dict[str, torch.Tensor]) -> tuple[Shard, int]:
    writer = ShardWriter()
    for row, one in enumerate(items):
        writer.add(row, one)
    path = folder / "one.safetensors"
    writer.write(path, {"trimmed": 2})
    return Shard(path), path.stat().st_size


def same(one: torch.Tensor, two: torch.Tensor) -> bool:
    kind = {4: torch.int32, 8: torch.int64}[one.element_size()]
    return one.shape == two.shape and one.dtype == two.dtype and torch.equal(one.view(kind), two.view(kind))


def test_pictures_come_back_bit_by_bit_from_an_eighth_of_their_bytes(tmp_path: Path) -> None:
    twice = [
        levels(64, 196, seed).unsqueeze(2).expand(-1, -1, 2, -1).reshape(64, -1).contiguous()
        for seed in range(3)
    ]
    shard, size = written(tmp_path, *(item(pixel_values=value) for value in twice))
    assert size < sum(value.nbytes for value in twice) / 3.8
    for at, value in enumerate(twice):
        found = shard.tensors(at, shard.keys(at))
        assert list(found) == ["input_ids", "labels", "pixel_values"]
        assert same(found["pixel_values"], value)
    assert shard.about["lengths"] == [5, 5, 5]
    assert shard.about["learned"] == [3, 3, 3]
    assert shard.about["fitted"] == {"trimmed": 2}


@pytest.mark.parametrize(
    "value",
    [
        torch.randn(64, 1176, generator=torch.Generator().manual_seed(0)),
        levels(64, 392).reshape(64, -1),
        levels(3, 150_528).reshape(3, 3, 224, 672),
        torch.zeros(3, 128, 128).index_fill_(0, torch.tensor([1]), -0.0),
        torch.full((64, 1176), float("nan")),
        torch.randn(40_000, generator=torch.Generator().manual_seed(1)).round(decimals=1),
        levels(64, 392).reshape(64, -1)[:, ::2],
        torch.randn(128, 200).double(),
    ],
    ids=[
        "noise",
        "two frames that differ",
        "whole pictures",
        "minus zero",
        "nan",
        "one axis",
        "strided",
        "float64",
    ],
)
def test_every_tensor_comes_back_bit_by_bit_whatever_it_holds(tmp_path: Path, value: torch.Tensor) -> None:
    shard, _ = written(tmp_path, item(media=value), item(media=value + 1), item())
    assert same(shard.tensors(0, ["media"])["media"], value.contiguous())
    assert same(shard.tensors(1, ["media"])["media"], (value + 1).contiguous())
    assert list(shard.tensors(2, shard.keys(2))) == ["input_ids", "labels"]


def test_minus_zero_and_zero_are_two_frames_that_differ(tmp_path: Path) -> None:
    value = torch.zeros(64, 3, 2, 196)
    value[:, :, 1] = -0.0
    shard, _ = written(tmp_path, item(media=value.reshape(64, -1)))
    assert same(shard.tensors(0, ["media"])["media"], value.reshape(64, -1))


def test_a_table_takes_new_values_until_it_is_full_and_what_it_has_coded_stays_right() -> None:
    codes = Codes()
    draw = np.random.default_rng(0)
    values = draw.integers(0, 1 << 32, 4096, dtype=np.uint32)
    kept = []
    for count in (100, 700, 1400):
        bits = draw.choice(values[:count], 20_000)
        found = codes.of(bits)
        assert found is not None
        kept.append((bits, found))
    assert all(np.array_equal(codes.values.take(found), bits) for bits, found in kept)
    assert codes.of(values) is None
    assert codes.of(kept[0][0]) is None
    assert all(np.array_equal(codes.values.take(found), bits) for bits, found in kept)


def test_encoded_rows_are_the_tensors_that_were_added(tmp_path: Path) -> None:
    value = levels(64, 392).reshape(64, -1)
    written(tmp_path, item(pixel_values=value), item())
    data = Encoded([tmp_path / "one.safetensors"], [1.0, 0.5])
    assert same(data[0]["pixel_values"], value)
    assert data.weights == [1.0, 0.5]
    assert list(data[1]) == ["input_ids", "labels"]
