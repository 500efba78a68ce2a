"""The gate in front of fast paths: what it lets through, what it holds back, and what it leaves untouched."""

from __future__ import annotations

import pytest
import torch

from studio.log import QuietLog
from studio.training.parity import Gate, Measure, differences


class Told(QuietLog):
    """Keeps the sentences."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def say(self, message: str) -> None:
        self.sentences.append(message)


@pytest.fixture
def net() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))


ROWS = torch.linspace(-1, 1, 20).reshape(5, 4)


def loss(net: torch.nn.Module, rows: torch.Tensor = ROWS) -> torch.Tensor:
    return (net(rows) - 1).square().sum()


def test_the_same_sum_in_another_order_is_let_through(net: torch.nn.Sequential) -> None:
    log = Told()
    gate = Gate(net, log)
    plain = gate.measure(lambda: loss(net))
    assert gate.allows("joining", plain, lambda: loss(net, ROWS[:2]) + loss(net, ROWS[2:]))
    assert log.sentences[0].startswith("joining: on; on the first rows the loss differs by")


def test_another_loss_is_held_back(net: torch.nn.Sequential) -> None:
    log = Told()
    gate = Gate(net, log)
    plain = gate.measure(lambda: loss(net))
    assert not gate.allows("joining", plain, lambda: loss(net) * 1.001)
    assert log.sentences == [
        "joining: off, because the loss differs by 0.001 of itself, the gradient by 0.001"
    ]


def test_equal_losses_with_another_gradient_are_held_back(net: torch.nn.Sequential) -> None:
    gate = Gate(net, Told())
    plain = gate.measure(lambda: loss(net))

    def cut() -> torch.Tensor:
        with torch.no_grad():
            first = net[0](ROWS)
        return (net[2](first) - 1).square().sum()

    assert not gate.allows("cutting", plain, cut)
    alone = Gate(net, Told(), backward=None)
    assert alone.allows("cutting", alone.measure(lambda: loss(net)), cut)


def test_a_path_that_fails_or_overflows_is_off_with_its_reason(net: torch.nn.Sequential) -> None:
    log = Told()
    gate = Gate(net, log)
    plain = gate.measure(lambda: loss(net))
    assert not gate.allows("joining", plain, lambda: loss(net, ROWS[:, :3]))
    assert log.sentences[-1].startswith("joining: off, because it fails on this model (RuntimeError: mat1")
    assert not gate.allows("joining", plain, lambda: loss(net) * torch.inf)
    assert not gate.allows("joining", plain, lambda: loss(net) * torch.nan)


def test_one_process_that_says_no_decides_for_all(net: torch.nn.Sequential) -> None:
    log = Told()
    gate = Gate(net, log, agree=lambda _: False)
    plain = gate.measure(lambda: loss(net))
    assert not gate.allows("joining", plain, lambda: loss(net))
    assert log.sentences == ["joining: off, because it is off on another process"]


def test_nothing_is_left_behind(net: torch.nn.Sequential) -> None:
    net[2].weight.requires_grad_(False)
    net.train()
    net[0].eval()
    held = net[0].weight.grad = torch.ones_like(net[0].weight)
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    gate = Gate(net, Told())
    assert gate.allows("itself", gate.measure(lambda: loss(net)), lambda: loss(net))
    assert torch.equal(torch.rand(3), expected)
    assert net[0].weight.grad is held
    assert net[0].bias.grad is None
    assert [module.training for module in net] == [False, True, True]


def test_rough_arithmetic_is_judged_roughly(net: torch.nn.Sequential) -> None:
    for dtype, allowed in ((torch.float32, False), (torch.bfloat16, True)):
        gate = Gate(net, Told(), dtype=dtype)
        plain = gate.measure(lambda: loss(net))
        assert gate.allows("rounding", plain, lambda: loss(net) * 1.005) is allowed


def test_no_gradient_at_all_is_no_difference() -> None:
    nothing = Measure(loss=2.0, norms=torch.zeros(3))
    assert differences(nothing, nothing) == (0.0, 0.0)
    assert differences(nothing, Measure(loss=1.0, norms=torch.ones(3)))[1] > 1
