"""mergekit itself, run on tensors in memory: what its methods make of full models, to be compared with.

mergekit reads a model's architecture off the names of its tensors, and what does not fit that reading is
left out without a word. Its methods look at one tensor at a time and not at its name; so the tensors go to
it under names that have no layers in them, and none is lost.
"""

from __future__ import annotations

import json
import logging
import random
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from studio.errors import MergeError
from studio.later import torch

if TYPE_CHECKING:
    from torch import Tensor

#: Merge by name -> (mergekit's method, its settings, settings of each model).
Jobs = Mapping[str, tuple[str, Mapping[str, Any], Mapping[str, Any]]]


def mergekit_merges(
    base: Mapping[str, Tensor], models: Sequence[Mapping[str, Tensor]], jobs: Jobs, *, seed: int = 0
) -> Iterator[tuple[str, dict[str, Tensor] | str]]:
    """Yield what mergekit makes of the models by each job, or the sentence with which it refuses.

    ``base`` and ``models`` hold the same names; so does what is yielded, in float32. Random numbers come from
    ``seed``; torch's, NumPy's and Python's own generators are as before afterwards.

    Raises:
        MergeError: if the models do not have the base's tensors.
    """
    for number, model in enumerate(models):
        if {n: t.shape for n, t in model.items()} != {n: t.shape for n, t in base.items()}:
            raise MergeError(f"model {number + 1} of {len(models)} does not have the tensors of the base")
    flat = {f"tensor{at:05d}": name for at, name in enumerate(base)}
    with tempfile.TemporaryDirectory(prefix="triptych-mergekit-") as place:
        for number, model in enumerate((base, *models)):
            _write(Path(place) / str(number), {short: model[name] for short, name in flat.items()})
        for job, (method, settings, own) in jobs.items():
            config: dict[str, Any] = {
                "merge_method": method,
                "models": [
                    {"model": f"{place}/{number + 1}", "parameters": dict(own)}
                    for number in range(len(models))
                ],
                "parameters": dict(settings),
                "dtype": "float32",
            }
            if method == "slerp":  # goes from one of the two models to the other
                config["base_model"] = f"{place}/1"
            elif method != "linear":
                config["base_model"] = f"{place}/0"
            out = Path(place) / "out"
            try:
                found = _run(config, out, seed)
            except (ValueError, RuntimeError, TypeError, KeyError, IndexError) as error:
                yield (
                    job,
                    f"mergekit's {method} refuses: {(str(error) or type(error).__name__).splitlines()[0]}",
                )
                continue
            if len(found) != len(flat):
                yield job, f"mergekit's {method} lost {len(flat) - len(found)} of {len(flat)} tensors"
                continue
            yield job, {name: found[short].float() for short, name in flat.items()}


def _write(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    from safetensors.torch import save_file

    folder.mkdir()
    whole = {name: tensor.float().contiguous() for name, tensor in tensors.items()}
    save_file(whole, folder / "model.safetensors", metadata={"format": "pt"})
    # No language model, so transformers builds none from it, and the names on disk are what counts.
    (folder / "config.json").write_text(
        json.dumps({"model_type": "vit", "architectures": ["Flat"]}), encoding="utf-8"
    )


def _run(config: Mapping[str, Any], out: Path, seed: int) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    with _quiet(), torch.random.fork_rng(devices=[]):
        from mergekit.config import MergeConfiguration
        from mergekit.merge import run_merge
        from mergekit.options import MergeOptions

        read = MergeConfiguration.model_validate(dict(config))
        options = MergeOptions(quiet=True, write_model_card=False, copy_tokenizer=False, random_seed=seed)
        run_merge(read, str(out), options)
    found: dict[str, Tensor] = {}
    for file in sorted(out.glob("*.safetensors")):
        found |= {name: tensor.clone() for name, tensor in load_file(file).items()}
        file.unlink()
    for file in out.iterdir():
        file.unlink()
    return found


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep what mergekit logs and warns of to itself, and the generators that it seeds as they are."""
    states = random.getstate(), np.random.get_state()
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
        random.setstate(states[0])
        np.random.set_state(states[1])
