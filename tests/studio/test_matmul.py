"""Products through oneDNN, with LoRA in the weight: the same losses and gradients as the layers' own code."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from studio import plugins
from studio.adapters import add_lora
from studio.families import family
from studio.training.loss import TokenLoss
from studio.training.matmul import FastProducts, product

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN"
)


def gradients(model: nn.Module, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def own_forwards(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("name", plugins.names("families"))
def test_every_family_learns_the_same(
    tiny: Callable[[str], Path], questions: Callable[[str, int], list[Any]], name: str
) -> None:
    kind = family(name)
    model, processor = kind.load(tiny(name), dtype=torch.float32)
    model = add_lora(model, kind, list(kind.lora_targets), r=4, alpha=8.0)
    torch.manual_seed(0)
    for path, parameter in model.named_parameters():
        if "lora_B" in path:  # which begins as zero, where a wrong A would not be seen
            parameter.data.normal_(std=0.1)
    batch = kind.collate(
        processor, [kind.encode(processor, row, True) for row in questions(name, 4)], "right"
    )
    loss = TokenLoss(model, torch.device("cpu"))
    plain = loss(model, batch, [1.0] * 4)
    expected = gradients(model, plain)
    before = own_forwards(model)
    fast = FastProducts(model)
    assert len(fast) > 10
    other = loss(model, batch, [1.0] * 4)
    torch.testing.assert_close(other, plain, rtol=1e-5, atol=0)  # fp32, sums in another order
    got = gradients(model, other)
    assert got.keys() == expected.keys()
    whole = torch.stack([value.norm() for value in expected.values()]).norm()
    for path, value in expected.items():
        assert (got[path] - value).norm() <= 1e-5 * whole, path
    fast.close()
    assert own_forwards(model) == before


def lora(**settings: Any) -> tuple[nn.Module, nn.Module]:
    """A layer of 12 -> 20 in PEFT's LoRA, and the same with another forward."""
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(0)
    wanted = LoraConfig(r=3, lora_alpha=6, target_modules=["0"], init_lora_weights=False, **settings)
    model = get_peft_model(nn.Sequential(nn.Linear(12, 20), nn.Linear(20, 8)), wanted)
    other = copy.deepcopy(model)
    FastProducts(other)
    return model, other


ROWS = torch.linspace(-1, 1, 5 * 9 * 12).reshape(5, 9, 12)


@pytest.mark.parametrize(
    "settings", [{}, {"use_rslora": True}, {"use_dora": True}, {"lora_bias": True}, {"bias": "all"}]
)
def test_what_lora_can_be_is_computed_as_peft_does(settings: dict[str, Any]) -> None:
    plain, fast = lora(**settings)
    for rows in (ROWS, ROWS[:1, :2]):  # many tokens, and too few to sum up the weight for
        inputs = [rows.clone().requires_grad_() for _ in range(2)]
        losses = [net(x).square().sum() for net, x in zip((plain, fast), inputs, strict=True)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=0)
        expected, got = (gradients(net, loss) for net, loss in zip((plain, fast), losses, strict=True))
        assert expected.keys() == got.keys()
        for path in expected:
            torch.testing.assert_close(got[path], expected[path], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(inputs[1].grad, inputs[0].grad, rtol=1e-4, atol=1e-4)


def test_dropout_in_front_of_lora_still_drops() -> None:
    plain, fast = lora(lora_dropout=0.5)
    for net in (plain, fast):
        net.train()
    torch.manual_seed(1)
    first = plain(ROWS)
    torch.manual_seed(1)
    torch.testing.assert_close(fast(ROWS), first)
    torch.manual_seed(2)
    assert not torch.allclose(fast(ROWS), first)
    torch.testing.assert_close(fast.eval()(ROWS), plain.eval()(ROWS))


def test_an_adapter_that_is_switched_off_or_merged_is_respected() -> None:
    plain, fast = lora()
    with plain.disable_adapter(), fast.disable_adapter():
        torch.testing.assert_close(fast(ROWS), plain(ROWS))
    fast.merge_adapter()
    torch.testing.assert_close(fast(ROWS), plain(ROWS))
    fast.unmerge_adapter()
    torch.testing.assert_close(fast(ROWS), plain(ROWS))


def test_other_types_and_empty_inputs_go_their_own_way() -> None:
    net = nn.Sequential(nn.Linear(12, 4))
    expected = net(ROWS)
    FastProducts(net)
    assert net(ROWS[:0]).shape == (0, 9, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert net(ROWS).dtype == torch.bfloat16
    torch.testing.assert_close(net.double()(ROWS.double()), expected.double(), rtol=1e-5, atol=1e-6)


def test_aproduct_takes_views_as_they_are() -> None:
    x, weight = torch.randn(7, 5), torch.randn(5, 6)
    torch.testing.assert_close(product(x, weight.t()), x @ weight)
    torch.testing.assert_close(product(x.t()[:, :3], x.t()[:, :3]), x.t()[:, :3] @ x[:3])


def test_a_convolution_of_patches_is_a_product_and_others_are_left_alone() -> None:
    torch.manual_seed(0)
    for size, bias in (((2, 4, 4), True), ((4, 4), False)):
        kind = nn.Conv3d if len(size) == 3 else nn.Conv2d
        net = nn.Sequential(kind(3, 6, size, stride=size, bias=bias))
        patches = torch.randn(10, 3, *size, requires_grad=True)
        whole = torch.randn(1, 3, *(2 * each for each in size))
        plain, expected = net(patches), net(whole)
        before = gradients(net, plain.square().sum())
        to_patches, patches.grad = patches.grad, None
        assert len(FastProducts(net)) == 1
        found = net(patches)
        assert found.shape == plain.shape
        torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-6)
        after = gradients(net, found.square().sum())
        for path in before:
            torch.testing.assert_close(after[path], before[path], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(patches.grad, to_patches, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(net(whole), expected)
    others = [
        nn.Conv2d(3, 6, 3),
        nn.Conv2d(3, 6, 2, stride=2, padding=1),
        nn.Conv2d(4, 4, 2, stride=2, groups=2),
    ]
    assert len(FastProducts(nn.Sequential(*others))) == 0
