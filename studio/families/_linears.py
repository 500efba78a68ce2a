"""Where transformers keeps towers, and how it calls their linear layers; what many records have in common."""

from __future__ import annotations

#: The towers of most models that see, and of most that hear.
SEES: dict[str, tuple[str, ...]] = {
    "vision": ("model.vision_tower",),
    "projector": ("model.multi_modal_projector",),
    "llm": ("model.language_model", "lm_head"),
}
HEARS: dict[str, tuple[str, ...]] = {
    "audio": ("model.audio_tower",),
    "projector": ("model.multi_modal_projector",),
    "llm": ("model.language_model", "lm_head"),
}

#: A layer of a language model like Llama's.
DECODER = r"(self_attn\.(q_proj|k_proj|v_proj|o_proj)|mlp\.(gate_proj|up_proj|down_proj))"
#: A layer of a vision tower like CLIP's and SigLIP's.
ENCODER = r"(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.(fc1|fc2))"
#: A layer of an audio tower like Whisper's.
LISTENER = r"(self_attn\.(q_proj|k_proj|v_proj|out_proj)|fc1|fc2)"

#: The layers of those towers where they stand in most models; whole patterns for LoRA.
LLM = r"model\.language_model\.layers\.\d+\." + DECODER
SIGLIP = r"model\.vision_tower\.(vision_model\.)?encoder\.layers\.\d+\." + ENCODER
WHISPER = r"model\.audio_tower\.layers\.\d+\." + LISTENER
