"""Memory: amounts as people write them, what the process takes, which tensors are alive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from studio.errors import ConfigError
from studio.families import family
from studio.training.fitting import Fitting, Size
from studio.training.live import REST, Live
from studio.training.memory import Meter, bytes_of, told

MB = 1 << 20


@pytest.mark.parametrize(
    ("text", "count"),
    [("8GB", 8 * 10**9), ("512 MB", 512 * 10**6), ("1.5GiB", 3 << 29), ("2k", 2000), ("1000000", 10**6)],
)
def test_amounts_are_read_as_people_write_them(text: str, count: int) -> None:
    assert bytes_of(text) == count


@pytest.mark.parametrize("text", ["", "0GB", "-1GB", "eight", "8 GBit", "8GB 2", "nan"])
def test_what_is_no_amount_is_one_sentence(text: str) -> None:
    with pytest.raises(ConfigError, match="memory must be an amount such as 8GB"):
        bytes_of(text)


def test_amounts_are_told_in_units_that_fit() -> None:
    assert (told(1_240_000_000), told(56_400_000)) == ("1.24 GB", "56 MB")


def test_the_meter_sees_what_a_tensor_takes_and_gives_back() -> None:
    meter = Meter(torch.device("cpu"))
    meter.reset()
    before = meter.now
    # More than earlier tests may have left to this process as free, or the kernel would not see it grow.
    block = torch.ones(512 * MB // 4)
    assert meter.now - before > 400 * MB
    del block
    assert meter.now - before < 100 * MB
    assert meter.peak - before > 400 * MB  # the peak stays
    assert meter.available > meter.now


def test_live_tensors_are_counted_byte_by_byte() -> None:
    """One linear layer: its output and the output's gradient are alive together, views cost nothing."""
    whisper = family("whisper")
    layer = torch.nn.Linear(256, 512, bias=False)
    given = torch.randn(64, 256)
    with Live(layer, whisper, [given]) as live:
        made = layer(given)
        loss = made.view(-1).square().sum()
        loss.backward()
    out, weight = 64 * 512 * 4, 256 * 512 * 4
    # The backward pass: output, its doubled self, and their product; at the end the weight's gradient.
    assert 3 * out <= live.peak <= 3 * out + weight + 64
    assert live.at_peak == {REST: live.peak}
    assert layer.weight.grad is not None


def test_live_tensors_belong_to_the_tower_that_makes_them(tiny: Callable[[str], Path]) -> None:
    omni = family("qwen_omni")
    model, _ = omni.load(tiny("qwen_omni"))
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("layernorm" in name)
    ids = torch.arange(32).repeat(4, 4) + 20
    with Live(model, omni) as live:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=False).logits.sum().backward()
    assert live.at_peak["llm"] > 0.5 * live.peak
    assert set(live.at_peak) <= {"llm", REST}
    assert not any(module._forward_pre_hooks for module in model.modules())


def test_sizes_are_foretold_by_the_line_through_the_last_two() -> None:
    fitting = Fitting.__new__(Fitting)
    fitting.before = 900
    fitting.sizes = [Size(rows=1, peak=1000, foretold=0)]
    assert fitting.foretold(4) == 1300
    fitting.sizes.append(Size(rows=2, peak=1200, foretold=1100))
    assert fitting.foretold(8) == 2400
    assert fitting.foretold(1) == 0  # nothing smaller was tried
