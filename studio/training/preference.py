r"""Losses that learn from which of two answers was preferred, or from whether one was good or bad.

    dpo     Rafailov et al. 2023, Direct Preference Optimization, arXiv:2305.18290, eq. 7
    ipo     Azar et al. 2023, A General Theoretical Paradigm, arXiv:2310.12036, eq. 17
    kto     Ethayarajh et al. 2024, KTO, arXiv:2402.01306, section 4 (L_KTO, eq. 7 of version 1)
    orpo    Hong et al. 2024, ORPO, arXiv:2403.07691, eq. 6 and 7
    simpo   Meng et al. 2024, SimPO, arXiv:2405.14734, eq. 6

$y_w$ is the chosen answer and $y_l$ the rejected one, $\pi$ the model that learns and $\pi_{ref}$ what it was
before. All tensors have an entry for each of N rows; losses are not averaged over them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from studio.training.settings import above_zero, not_negative

Name = Literal["dpo", "ipo", "kto", "orpo", "simpo"]
#: The largest mean log-probability whose odds are told apart: single precision knows no larger one below 0.
_CERTAIN = -1e-7


@dataclass(frozen=True, kw_only=True)
class Preference:
    """How hard a preference pulls, and what holds the model back."""

    beta: float | None = field(
        default=None,
        metadata={"help": "strength; none: 0.1 for dpo, ipo, kto and orpo (lambda), 2 for simpo"},
    )
    gamma: float = field(default=1.0, metadata={"help": "the margin that simpo wants between two rewards"})
    smoothing: float = field(
        default=0.0, metadata={"help": "dpo, simpo: the share of votes that are taken to be wrong"}
    )
    sft: float | None = field(
        default=None,
        metadata={"help": "weight of learning the chosen answer as sft does; none: 1 for orpo, else 0"},
    )
    desirable: float = field(default=1.0, metadata={"help": "kto: weight of answers called good"})
    undesirable: float = field(default=1.0, metadata={"help": "kto: weight of answers called bad"})

    def wrong(self) -> Iterator[str]:
        """Yield what is out of range."""
        yield from above_zero(self, "beta", "desirable", "undesirable")
        yield from not_negative(self, "gamma", "sft")
        if not 0 <= self.smoothing < 0.5:
            yield f"smoothing must be at least 0 and below 0.5, not {self.smoothing}"


@dataclass(frozen=True, kw_only=True)
class Answers:
    r"""What the model makes of N answers.

    ``log_prob`` [N] is $\log \pi(y|x)$, summed over the ``tokens`` [N] of an answer with its end, and
    ``reference`` [N] is $\log \pi_{ref}(y|x)$, zeros for a loss that asks for none.
    """

    log_prob: Tensor
    tokens: Tensor
    reference: Tensor

    @property
    def ratio(self) -> Tensor:
        r"""$\log \pi(y|x) / \pi_{ref}(y|x)$ [N]."""
        return self.log_prob - self.reference

    @property
    def mean(self) -> Tensor:
        r"""$\log \pi(y|x) / |y|$ [N], at most 0."""
        return self.log_prob / self.tokens.clamp(min=1)


def dpo(chosen: Answers, rejected: Answers, beta: float, settings: Preference) -> Tensor:
    r"""Return $-\log\sigma(\beta (h_w - h_l))$ [N], where $h = \log\pi(y) / \pi_{ref}(y)$ of each answer.

    With ``smoothing`` that share of the rows counts the other way round (Mitchell 2023, conservative DPO).
    """
    return _logistic(beta * (chosen.ratio - rejected.ratio), settings.smoothing)


def ipo(chosen: Answers, rejected: Answers, beta: float, settings: Preference) -> Tensor:
    r"""Return $(h - \frac{1}{2\tau})^2$ [N], with $\tau$ = ``beta`` and $h$ the difference of the log ratios.

    Each log ratio is taken per token, without which the goal would depend on the answers' lengths; trl, whose
    authors asked those of the paper, does the same.
    """
    gap = chosen.ratio / chosen.tokens.clamp(min=1) - rejected.ratio / rejected.tokens.clamp(min=1)
    return (gap - 1 / (2 * beta)).square()


def orpo(chosen: Answers, rejected: Answers, beta: float, settings: Preference) -> Tensor:
    r"""Return $-\lambda \log\sigma(\log\frac{odds(y_w)}{odds(y_l)})$ [N], with $\lambda$ = ``beta``.

    $odds(y) = p / (1 - p)$, and $\log p$ is the mean over tokens. The paper's first term, the answer itself,
    is what `settings.sft` adds.
    """
    return -beta * logsigmoid(_log_odds(chosen.mean) - _log_odds(rejected.mean))


def simpo(chosen: Answers, rejected: Answers, beta: float, settings: Preference) -> Tensor:
    r"""Return $-\log\sigma(\frac{\beta}{|y_w|}\log\pi(y_w) - \frac{\beta}{|y_l|}\log\pi(y_l) - \gamma)$."""
    return _logistic(beta * (chosen.mean - rejected.mean) - settings.gamma, settings.smoothing)


def kto(answers: Answers, good: Tensor, z: Tensor, beta: float, settings: Preference) -> Tensor:
    r"""Return $\lambda_D (1 - \sigma(\beta(r - z)))$ [N] of answers that are ``good`` [N].

    Of those that are not it is $\lambda_U (1 - \sigma(\beta(z - r)))$.
    $r$ is the log ratio of an answer and ``z`` [] an estimate of the KL divergence from the reference, at
    least 0, through which no gradient goes.
    """
    side = torch.where(good, 1.0, -1.0)
    weight = torch.where(good, settings.desirable, settings.undesirable)
    return weight * torch.sigmoid(-side * beta * (answers.ratio - z.detach()))


def likelihood(answers: Answers) -> Tensor:
    r"""Return $-\log\pi(y|x) / |y|$ [N]: learning the answer itself.

    Beside DPO it keeps the chosen answer likely (Pang et al. 2024, arXiv:2404.19733, eq. 1).
    """
    return -answers.mean


def _logistic(gap: Tensor, smoothing: float) -> Tensor:
    return -(1 - smoothing) * logsigmoid(gap) - smoothing * logsigmoid(-gap)


def _log_odds(log_p: Tensor) -> Tensor:
    r"""Return $\log p / (1 - p)$ of log-probabilities below 0, exact near both ends."""
    log_p = log_p.clamp(max=_CERTAIN)
    near = log_p > -math.log(2)
    rest = torch.where(
        near,
        torch.log(-torch.expm1(torch.where(near, log_p, -1.0))),
        torch.log1p(-torch.exp(torch.where(near, -1.0, log_p))),
    )
    return log_p - rest


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A loss by name: what it computes of pairs, None for kto, and what it needs.

    ``beta`` and ``sft`` are what `Preference` says if it says nothing. Without a ``reference`` the reward of
    an answer is beta times its log-probability a token, else beta times its log ratio.
    """

    pairs: Callable[[Answers, Answers, float, Preference], Tensor] | None
    beta: float = 0.1
    sft: float = 0.0
    reference: bool = True

    def reward(self, answers: Answers, beta: float) -> Tensor:
        """Return the rewards [N] that the loss is made of."""
        return beta * (answers.ratio if self.reference else answers.mean)


KINDS: Mapping[str, Kind] = {
    "dpo": Kind(pairs=dpo),
    "ipo": Kind(pairs=ipo),
    "kto": Kind(pairs=None),
    "orpo": Kind(pairs=orpo, sft=1.0, reference=False),
    "simpo": Kind(pairs=simpo, beta=2.0, reference=False),
}
