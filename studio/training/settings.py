"""Settings of fine-tuning in groups, each with what its values may be; recipes put them into their Config."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from studio.errors import ConfigError
from studio.training.processes import Strategy
from studio.training.schedule import Shape


@dataclass(frozen=True, kw_only=True)
class Adapter:
    """What an adapter is like."""

    r: int | None = field(default=None, metadata={"help": "rank; none: the method's own, 16 for a LoRA"})
    alpha: float | None = field(
        default=None, metadata={"help": "strength, delta = alpha / r * B A; none: 32 for a LoRA"}
    )
    dropout: float = field(default=0.0, metadata={"help": "dropout in front of the adapter"})
    options: dict[str, Any] = field(
        default_factory=dict,
        metadata={"help": "the method's further settings as PEFT calls them (adapter.options.tinit=10)"},
    )
    start: Path | None = field(
        default=None, metadata={"help": "an adapter, or a run with one, to go on from on new data"}
    )

    def wrong(self) -> Iterator[str]:
        """Yield what is out of range."""
        yield from above_zero(self, "r", "alpha")
        if not 0 <= self.dropout < 1:
            yield f"dropout must be at least 0 and below 1, not {self.dropout}"
        if self.start is not None and (self.r or self.alpha or self.dropout or self.options):
            yield "start brings r, alpha, dropout and options of its own; leave them out"


@dataclass(frozen=True, kw_only=True)
class Optimiser:
    """How weights follow their gradients: AdamW."""

    weight_decay: float = field(default=0.0, metadata={"help": "AdamW's; on matrices only"})
    clip: float = field(default=1.0, metadata={"help": "the gradient's largest norm; 0 does not clip"})
    warmup: float = field(default=0.05, metadata={"help": "steps of rising rate; below 1 a share of all"})
    floor: float = field(default=0.0, metadata={"help": "what the rate falls to, as a share of lr"})
    cooldown: float = field(default=0.2, metadata={"help": "steps wsd decays over; below 1 a share of all"})
    cycles: int = field(default=2, metadata={"help": "how often cosine_restarts starts"})
    power: float = field(default=2.0, metadata={"help": "of the schedule polynomial"})
    loraplus: float = field(
        default=1.0, metadata={"help": "LoRA+: rate of B over that of A (16); 1: one rate"}
    )
    neftune: float = field(
        default=0.0, metadata={"help": "NEFTune: noise on the text's embeddings (5); 0: none"}
    )
    robust_eps: float = field(
        default=0.0, metadata={"help": "adversarial training: pixels changed by so much of 255 (8); 0: none"}
    )
    robust_sound: float = field(
        default=0.0, metadata={"help": "the same for sounds, in their log-mel features (0.1); 0: none"}
    )
    robust_steps: int = field(default=3, metadata={"help": "steps of PGD that find the change; 1: FGSM"})
    ema: float = field(default=0.0, metadata={"help": "decay of a moving average to keep (0.999); 0: none"})

    @property
    def robust(self) -> bool:
        """Whether media are changed against the model before it learns from them."""
        return bool(self.robust_eps or self.robust_sound)

    @property
    def shape(self) -> Shape:
        """What the schedule asks for besides."""
        return Shape(floor=self.floor, cooldown=self.cooldown, cycles=self.cycles, power=self.power)

    def wrong(self) -> Iterator[str]:
        """Yield what is out of range."""
        yield from not_negative(self, "weight_decay", "clip", "warmup", "cooldown")
        yield from not_negative(self, "neftune", "robust_eps", "robust_sound")
        yield from above_zero(self, "cycles", "power", "loraplus", "robust_steps")
        for name in ("floor", "ema"):
            if not 0 <= (value := getattr(self, name)) < 1:
                yield f"{name} must be at least 0 and below 1, not {value}"


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """When a run looks at held-out rows."""

    every: int = field(default=0, metadata={"help": "steps between evaluations; 0: once an epoch"})
    patience: int = field(default=0, metadata={"help": "evaluations in a row without a better one; 0: any"})
    answers: int = field(default=4, metadata={"help": "held-out rows to answer at the end, for the report"})

    def wrong(self) -> Iterator[str]:
        """Yield what is out of range."""
        yield from not_negative(self, "every", "patience", "answers")


@dataclass(frozen=True, kw_only=True)
class Continual:
    """What is done for what the model could before."""

    replay: str | None = field(default=None, metadata={"help": "old rows to mix in, as data"})
    replay_share: float = field(default=0.2, metadata={"help": "their share of the rows of every epoch"})
    anchor: Literal["l2", "ewc"] | None = field(
        default=None, metadata={"help": "pull weights back to where they began; ewc: by their use for replay"}
    )
    strength: float = field(default=0.1, metadata={"help": "how hard the anchor pulls"})
    fisher_rows: int = field(default=64, metadata={"help": "rows of replay that ewc weighs the weights by"})

    def wrong(self) -> Iterator[str]:
        """Yield what is out of range."""
        yield from above_zero(self, "strength", "fisher_rows")
        if not 0 < self.replay_share < 1:
            yield f"replay_share must be above 0 and below 1, not {self.replay_share}"
        if self.anchor == "ewc" and not self.replay:
            yield "anchor=ewc weighs the weights by old rows: give continual.replay"


@dataclass(frozen=True, kw_only=True)
class Speed:
    """What makes a run faster, each by name."""

    strategy: Strategy = field(
        default="ddp", metadata={"help": "how processes share a model: each has it whole, or a part (fsdp)"}
    )
    tower_cache: bool = field(
        default=True, metadata={"help": "frozen towers once per medium, their features kept in the cache"}
    )
    checkpointing: bool = field(
        default=False, metadata={"help": "compute layers again in the backward pass, in less memory"}
    )
    prefetch: bool = field(
        default=True, metadata={"help": "make batches and epochs while the device computes"}
    )
    packing: bool | Literal["auto"] = field(
        default="auto", metadata={"help": "rows joined without padding; auto: where padding costs more"}
    )
    products: bool | Literal["auto"] = field(
        default="auto", metadata={"help": "matrix products by oneDNN; auto: on a CPU that is not Intel's"}
    )
    fused_layers: bool = field(
        default=True, metadata={"help": "with products: a decoder's layer and its gradients as one operation"}
    )
    places: bool = field(
        default=True, metadata={"help": "positions on several axes (M-RoPE) once for each row, then kept"}
    )
    short_queries: bool = field(
        default=True, metadata={"help": "an encoder's states are read by a decoder without projecting them"}
    )
    last_layer: bool = field(
        default=True, metadata={"help": "of the language model's last layer only what has a label"}
    )
    chunked_loss: bool = field(
        default=True, metadata={"help": "where logits are many, a part of them at a time"}
    )
    batch_tokens: int = field(
        default=0, metadata={"help": "micro-batches of so many tokens instead of batch_size rows; 0: of rows"}
    )
    compile: bool = field(default=False, metadata={"help": "the language model through torch.compile"})
    keep_memory: bool = field(
        default=True, metadata={"help": "on a CPU memory that a step has freed stays for the next one"}
    )

    def wrong(self) -> Iterator[str]:
        """Yield what is out of range."""
        yield from not_negative(self, "batch_tokens")


def above_zero(group: Any, *names: str) -> Iterator[str]:
    """Yield a sentence for each setting that is given and not above 0."""
    for name in names:
        if (value := getattr(group, name)) is not None and value <= 0:
            yield f"{name} must be more than 0, not {value}"


def not_negative(group: Any, *names: str) -> Iterator[str]:
    """Yield a sentence for each setting that is below 0."""
    for name in names:
        if (value := getattr(group, name)) is not None and value < 0:
            yield f"{name} must be at least 0, not {value}"


def check_settings(config: Any, wrong: Iterable[str] = ()) -> None:
    """Raise one `ConfigError` with all that is ``wrong`` with a configuration and with its groups."""
    told = list(wrong)
    for name, group in vars(config).items():
        if isinstance(group, Adapter | Optimiser | Evaluate | Continual | Speed):
            told += [f"{name}.{sentence}" for sentence in group.wrong()]
    if told:
        raise ConfigError("; ".join(told))
