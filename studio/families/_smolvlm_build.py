"""A small random SmolVLM (or Idefics3) with its genuine processor, built from nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from studio.families._save import save_pretrained
from studio.later import torch
from studio.types import Loaded

TEXTS = ("What is in the picture?", "a red circle", "User: Assistant: System:", "how many squares? two")
PAD, START, END = "<|endoftext|>", "<|im_start|>", "<end_of_utterance>"
MEDIA = {
    "image_token": "<image>",
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
}
SIDE, PATCH, SHUFFLE = 32, 8, 2
TEMPLATE = (
    "<|im_start|>{% for message in messages %}{{message['role'] | capitalize}}"
    "{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}"
    "{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}"
    "{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>\n"
    "{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)


def tokenizer() -> Any:
    """Return a byte-level BPE tokenizer with SmolVLM's special tokens, tiles up to 4 x 4 included."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tiles = [f"<row_{row}_col_{column}>" for row in range(1, 5) for column in range(1, 5)]
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=[PAD, START, END, *MEDIA.values(), *tiles],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(TEXTS, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=made,
        bos_token=START,
        eos_token=END,
        pad_token=PAD,
        extra_special_tokens={**MEDIA, "end_of_utterance_token": END},
        additional_special_tokens=tiles,
        model_max_length=2048,
    )


def processor(kind: str = "smolvlm") -> Any:
    """Return the genuine processor of ``kind`` ("smolvlm" or "idefics3"), image splitting off."""
    import transformers

    size = {"size": {"longest_edge": SIDE}, "max_image_size": {"longest_edge": SIDE}}
    shared = {
        "tokenizer": tokenizer(),
        "image_seq_len": (SIDE // PATCH // SHUFFLE) ** 2,
        "chat_template": TEMPLATE,
    }
    if kind == "idefics3":
        pictures = transformers.Idefics3ImageProcessor(do_image_splitting=False, **size)
        return transformers.Idefics3Processor(image_processor=pictures, **shared)
    sampling = {"fps": 1, "max_frames": 4, "video_size": {"longest_edge": SIDE}}
    return transformers.SmolVLMProcessor(
        image_processor=transformers.SmolVLMImageProcessor(do_image_splitting=False, **size),
        video_processor=transformers.SmolVLMVideoProcessor(video_sampling=sampling, **size),
        **shared,
    )


def build(folder: Path, seed: int, kind: str = "smolvlm") -> Path:
    """Write a random model of ``kind`` of about 60,000 parameters with its processor into ``folder``."""
    import transformers

    whole = processor(kind)
    words = whole.tokenizer
    prefix = "Idefics3" if kind == "idefics3" else "SmolVLM"
    config = getattr(transformers, f"{prefix}Config")(
        text_config={
            "model_type": "llama", "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64,
            "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
            "max_position_embeddings": 2048, "pad_token_id": words.pad_token_id,
            "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id,
        },
        vision_config={
            "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": SIDE, "patch_size": PATCH,
        },
        image_token_id=words.convert_tokens_to_ids(MEDIA["image_token"]),
        scale_factor=SHUFFLE,
        tie_word_embeddings=False,
        pad_token_id=words.pad_token_id,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, f"{prefix}ForConditionalGeneration")(config)
    model.generation_config = transformers.GenerationConfig(
        bos_token_id=words.bos_token_id, eos_token_id=words.eos_token_id, pad_token_id=words.pad_token_id
    )
    save_pretrained(Loaded(model, whole), folder)
    return Path(folder)
