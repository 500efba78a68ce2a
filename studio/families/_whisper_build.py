"""A small random Whisper with its genuine processor, built from nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from studio.families._save import save_pretrained
from studio.later import torch
from studio.types import Loaded

TEXTS = ("set pump two to forty", "stop the left motor", "open valve nine", "what was said?")


def tokenizer() -> Any:
    """Return a multilingual Whisper tokenizer over a byte-level BPE trained on a few sentences."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import WhisperTokenizer
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, show_progress=False)
    made.train_from_iterator(TEXTS, trainer)
    model = json.loads(made.to_str())["model"]
    marks = ["startoftranscript", *LANGUAGES, "translate", "transcribe", "startoflm", "startofprev"]
    return WhisperTokenizer(
        vocab=model["vocab"],
        merges=[tuple(pair) for pair in model["merges"]],
        language="english",
        task="transcribe",
        extra_special_tokens=[f"<|{mark}|>" for mark in (*marks, "nospeech", "notimestamps")],
        model_max_length=448,
    )


def build(folder: Path, seed: int) -> Path:
    """Write a random Whisper of about 100,000 parameters with its processor into ``folder``."""
    from transformers import (
        GenerationConfig,
        WhisperConfig,
        WhisperFeatureExtractor,
        WhisperForConditionalGeneration,
        WhisperProcessor,
    )
    from transformers.models.whisper.tokenization_whisper import LANGUAGES, TASK_IDS

    words = tokenizer()
    ids = {token: words.convert_tokens_to_ids(token) for token in words.all_special_tokens}
    end, start = ids["<|endoftext|>"], ids["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=len(words), num_mel_bins=80, d_model=32, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64,
        decoder_start_token_id=start, pad_token_id=end, bos_token_id=end, eos_token_id=end, init_std=0.1,
        begin_suppress_tokens=None,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = WhisperForConditionalGeneration(config)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=start,
        pad_token_id=end,
        bos_token_id=end,
        eos_token_id=end,
        is_multilingual=True,
        lang_to_id={f"<|{language}|>": ids[f"<|{language}|>"] for language in LANGUAGES},
        task_to_id={task: ids[f"<|{task}|>"] for task in TASK_IDS},
        no_timestamps_token_id=ids["<|notimestamps|>"],
        prev_sot_token_id=ids["<|startofprev|>"],
        max_length=448,
        begin_suppress_tokens=[words.convert_tokens_to_ids("Ġ"), end],
    )
    save_pretrained(Loaded(model, WhisperProcessor(WhisperFeatureExtractor(), words)), folder)
    return Path(folder)
