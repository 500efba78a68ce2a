"""One real step of each family in bf16: on a CUDA device if there is one; on the CPU the same code, slowly.

The tokens per second are of tiny models: they tell that the code runs on a device, not how fast a model is.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from studio import plugins
from studio.adapters import add_lora
from studio.families import family
from studio.training.loss import TokenLoss
from studio.training.towers import train_mode
from studio.types import Sample

NAMES = plugins.names("families")
Questions = Callable[[str, int], list[Sample]]


def step(name: str, device: str, dtype: torch.dtype, folder: Path, questions: Questions) -> float:
    """Train LoRA on every tower for two steps on ``device``; return the tokens per second of the second.

    Weights are in ``dtype``, adapters in fp32, the computation in ``dtype``, as `recipes/sft.py` has it.
    """
    kind = family(name)
    model, processor = kind.load(folder, dtype=dtype, device=device)
    items = [kind.encode(processor, sample, True) for sample in questions(name, 4)]
    adapted = add_lora(model, kind, sorted(kind.lora_targets), r=4, alpha=8, seed=0)
    learning = {path: p for path, p in adapted.named_parameters() if p.requires_grad}
    for parameter in learning.values():
        parameter.data = parameter.data.float()
    train_mode(adapted)
    loss_of = TokenLoss(adapted, torch.device(device), dtype)
    optimiser = torch.optim.AdamW(learning.values(), lr=1e-3)
    batch = kind.collate(processor, items, "right")
    before = {path: p.detach().clone() for path, p in learning.items()}
    rate = 0.0
    for _ in range(2):
        begun = time.perf_counter()
        loss = loss_of(adapted, batch, [1.0] * len(items))
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        assert bool(loss.isfinite())  # waits for the device too
        key = "input_ids" if "input_ids" in batch else "decoder_input_ids"
        rate = batch[key].numel() / (time.perf_counter() - begun)
    assert all(p.device.type == torch.device(device).type for p in adapted.parameters())
    moved = [path for path, p in learning.items() if "lora_B" in path and not torch.equal(p, before[path])]
    assert len(moved) > len([path for path in learning if "lora_B" in path]) / 2
    return rate


@pytest.mark.gpu
@pytest.mark.parametrize("name", NAMES)
def test_a_step_in_bf16_on_a_cuda_device(
    name: str, tiny: Callable[[str], Path], questions: Questions
) -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device, and torch sees none")
    rate = step(name, "cuda", torch.bfloat16, tiny(name), questions)
    print(f"{name}: {rate:,.0f} tokens/s on {torch.cuda.get_device_name()}")


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=["bf16", "fp32"])
@pytest.mark.parametrize("name", NAMES)
def test_the_same_step_on_the_cpu(
    name: str, dtype: torch.dtype, tiny: Callable[[str], Path], questions: Questions
) -> None:
    print(f"{name}: {step(name, 'cpu', dtype, tiny(name), questions):,.0f} tokens/s on the CPU")
