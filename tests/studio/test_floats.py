from __future__ import annotations

import numpy as np
import pytest
import torch

from studio.floats import READABLE, WRITABLE, narrow, sound, widen
from studio.tensorfile import BITS, TORCH_NAMES

SMALL = [kind for kind in READABLE if BITS[kind] <= 16]


def every(kind: str) -> np.ndarray:
    """Return all bit patterns of a type of at most 16 bits, as bytes."""
    bits = BITS[kind]
    return np.arange(1 << bits, dtype=f"uint{bits}").view(np.uint8)


def as_tensor(raw: np.ndarray, kind: str) -> torch.Tensor:
    return torch.from_numpy(raw.copy()).view(getattr(torch, TORCH_NAMES[kind]))


@pytest.mark.parametrize("kind", SMALL)
def test_every_finite_value_widens_to_the_very_bits_that_torch_gives(kind: str) -> None:
    wanted = as_tensor(every(kind), kind).float()
    finite = torch.isfinite(wanted).numpy()
    size = BITS[kind] // 8
    raw = np.ascontiguousarray(every(kind).reshape(-1, size)[finite]).reshape(-1)
    assert np.array_equal(widen(raw, kind).view(np.uint32), wanted.numpy()[finite].view(np.uint32))
    assert sound(raw, kind)


@pytest.mark.parametrize("kind", SMALL)
def test_every_value_that_is_not_finite_is_seen(kind: str) -> None:
    size = BITS[kind] // 8
    rows = every(kind).reshape(-1, size)
    finite = torch.isfinite(as_tensor(every(kind), kind).float()).numpy()
    assert not any(sound(np.ascontiguousarray(row), kind) for row in rows[~finite])


@pytest.mark.parametrize("kind", ["F32", "F64"])
def test_infinities_and_nans_are_seen_in_wide_types(kind: str) -> None:
    values = np.array([1.0, -np.inf, np.nan, np.inf], np.float32 if kind == "F32" else np.float64)
    assert [sound(values[i : i + 1].view(np.uint8), kind) for i in range(4)] == [True, False, False, False]
    assert sound(np.empty(0, np.uint8), kind)


@pytest.mark.parametrize("kind", WRITABLE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_values_narrow_to_the_very_bits_that_torch_gives(kind: str, dtype: torch.dtype) -> None:
    draw = torch.Generator().manual_seed(0)
    exponents = torch.randint(-50, 38, (200_000,), generator=draw).to(dtype)
    values = torch.randn(200_000, generator=draw, dtype=dtype) * 2.0**exponents
    ties = as_tensor(every("BF16"), "BF16").float()
    ties = ties[torch.isfinite(ties)]
    halves = (ties.view(torch.int32) + 0x8000).view(torch.float32)  # exactly between two bfloat16 values
    values = torch.cat([values, halves[torch.isfinite(halves)].to(dtype), torch.tensor([0.0, -0.0])])
    wanted = values.to(getattr(torch, TORCH_NAMES[kind]))
    stored = narrow(values.numpy(), kind)
    assert stored.tobytes() == wanted.view(torch.uint8).numpy().tobytes()
    assert sound(stored, kind) == bool(torch.isfinite(wanted).all())
