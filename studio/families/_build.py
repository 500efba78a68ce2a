"""What small random checkpoints are made of: a tokenizer trained on sentences, and a way to write them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from studio.families._save import save_pretrained
from studio.later import torch
from studio.types import Loaded

TEXTS = ("What is in the picture?", "a red circle", "what was said?", "one two three", "how many squares?")

CHATML = (
    "{%- for message in messages -%}"
    "{%- if loop.first and message['role'] != 'system' and SYSTEM -%}"
    "{{- '<|im_start|>system\\n' + SYSTEM + '<|im_end|>\\n' -}}{%- endif -%}"
    "{{- '<|im_start|>' + message['role'] + '\\n' -}}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
    "{%- for part in message['content'] -%}"
    "{%- if part['type'] == 'text' -%}{{- part['text'] -}}{%- else -%}{{- MEDIUM -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def chatml(medium: str, system: str = "") -> str:
    """Return a ChatML template in which a medium stands as ``medium``, with an implied ``system`` turn."""
    fixed = f"{{%- set SYSTEM = {system!r} -%}}{{%- set MEDIUM = {medium!r} -%}}"
    return fixed + CHATML


def roles(medium: str) -> str:
    """Return Granite's template, in which a medium of a message in parts stands as ``medium``."""
    return (
        "{%- for message in messages -%}"
        "{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' -}}"
        "{%- if message['content'] is string -%}{{- message['content'] -}}{%- else -%}"
        "{%- for part in message['content'] -%}"
        f"{{{{- part['text'] if part['type'] == 'text' else {medium!r} -}}}}"
        "{%- endfor -%}{%- endif -%}{{- '<|end_of_text|>\n' -}}{%- endfor -%}"
        "{%- if add_generation_prompt -%}{{- '<|start_of_role|>assistant<|end_of_role|>' -}}{%- endif -%}"
    )


def instructions(kind: str, medium: str) -> str:
    """Return Mistral's template (form 7), in which a medium of ``kind`` stands as ``medium``."""
    return (
        "{{- bos_token -}}{%- for message in messages -%}"
        "{%- if message['role'] == 'system' -%}{%- set marks = ['[SYSTEM_PROMPT]', '[/SYSTEM_PROMPT]'] -%}"
        "{%- elif message['role'] == 'user' -%}{%- set marks = ['[INST]', '[/INST]'] -%}"
        "{%- else -%}{%- set marks = ['', eos_token] -%}{%- endif -%}"
        "{{- marks[0] -}}{%- for part in message['content'] -%}"
        f"{{{{- {medium!r} if part['type'] == {kind!r} else part['text'] -}}}}"
        "{%- endfor -%}{{- marks[1] -}}{%- endfor -%}"
    )


def byte_level(
    special: Iterable[str], *, eos: str, pad: str, named: Mapping[str, str] | None = None, **more: Any
) -> Any:
    """Train a byte-level BPE tokenizer, as Qwen and Granite have it, with ``special`` tokens.

    ``named`` gives some of them a name that the processor asks for (``image_token``, say).
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    special = list(dict.fromkeys((*special, eos, pad, *(named or {}).values())))
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=288 + len(special), special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        eos_token=eos,
        pad_token=pad,
        additional_special_tokens=[token for token in special if token not in (named or {}).values()],
        extra_special_tokens=dict(named or {}),
        model_max_length=2048,
        **more,
    )


def byte_fallback(
    kind: Any, special: Iterable[str], *, named: Mapping[str, str] | None = None, **more: Any
) -> Any:
    """Train a BPE tokenizer with marked blanks and byte fallback, as Llama and Gemma have it.

    ``kind`` is its class of transformers, whose own special tokens come first.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    made = Tokenizer(models.BPE(byte_fallback=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    own = list(dict.fromkeys(token for token in kind().all_special_tokens))
    letters = [chr(code) for code in range(33, 127)]
    trainer = trainers.BpeTrainer(
        vocab_size=450 + len(own),
        special_tokens=[*own, *(f"<0x{byte:02X}>" for byte in range(256))],
        initial_alphabet=["▁", *letters],
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    model = json.loads(made.to_str())["model"]
    words = kind(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        extra_special_tokens=dict(named or {}),
        model_max_length=2048,
        **more,
    )
    words.add_tokens(list(special), special_tokens=True)
    return words


def write(
    kind: Any,
    config: Any,
    processor: Any,
    folder: Path,
    *,
    end: str = "",
    filled: str = "",
    prepare: Callable[[Any], None] | None = None,
    seed: int = 0,
) -> Path:
    """Write a random model of the class ``kind`` with its processor into ``folder`` and return it.

    ``end`` is the token at which an answer ends, where that is not the tokenizer's own end; ``filled`` a
    parameter that is random too, though the class begins with zeros; ``prepare`` sets what is not random.
    """
    from transformers import GenerationConfig

    words = processor.tokenizer
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = kind(config)
        if filled:
            torch.nn.init.normal_(model.get_parameter(filled), std=0.2)
        if prepare:
            prepare(model)
    ends = [words.eos_token_id] + ([words.convert_tokens_to_ids(end)] if end else [])
    model.generation_config = GenerationConfig(
        bos_token_id=words.bos_token_id, eos_token_id=ends, pad_token_id=words.pad_token_id
    )
    save_pretrained(Loaded(model, processor), folder)
    return Path(folder)
