"""The model of a run as it learns: rounded if asked for, adapted, its layers checkpointed, its text noisy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from studio.errors import ConfigError
from studio.methods import method
from studio.quantise import KINDS, check_quantise, quantise
from studio.training.checkpointing import checkpoint_towers
from studio.training.noise import TextNoise
from studio.training.rules import TowerRule, tower_rules
from studio.training.tower_types import load_type
from studio.training.towers import choose_trainable
from studio.types import Family


def check_learner(config: Any, family: Family) -> dict[str, TowerRule]:
    """Return the towers' rules of a run's settings; `ConfigError` where they cannot go together."""
    rules = tower_rules(family, config.method, config.towers)
    check_quantise(config.precision, config.method, rules)
    whole = method(config.method).name in ("adalora", "pissa", "olora") or config.precision in KINDS
    if whole and config.speed.strategy != "ddp":
        raise ConfigError(
            f"speed.strategy={config.speed.strategy} cuts weights that method={config.method} with "
            f"precision={config.precision} needs whole; use ddp"
        )
    return rules


def type_to_load(config: Any, rules: Mapping[str, TowerRule], dtype: torch.dtype) -> torch.dtype:
    """Return the type to load the model in, in a run that computes in ``dtype``."""
    return load_type(rules, config.method, dtype, config.precision in KINDS)


def make_learner(
    model: Any,
    family: Family,
    rules: Mapping[str, TowerRule],
    config: Any,
    *,
    dtype: torch.dtype,
    steps: int,
    base_fingerprint: str,
) -> Any:
    """Return a loaded model, on its device, as a run of ``steps`` steps trains it, by the run's settings.

    ``dtype`` is the type to compute in. Raises what `choose_trainable` raises.
    """
    if config.precision in KINDS:
        model = quantise(model, family, config.precision, compute=dtype)
    learner = choose_trainable(
        model, family, rules,
        method=config.method, **vars(config.adapter), steps=steps, seed=config.seed,
        base_fingerprint=base_fingerprint, weights=torch.float32 if config.method == "full" else dtype,
    )  # fmt: skip
    checkpoint_towers(learner, family, rules, config.speed.checkpointing)
    if config.optimiser.neftune:
        TextNoise(learner, config.optimiser.neftune)
    return learner
