"""How transformers calls the linear layers in a layer of most models; tails of the patterns for LoRA."""

from __future__ import annotations

#: A layer of a language model like Llama's.
DECODER = r"(self_attn\.(q_proj|k_proj|v_proj|o_proj)|mlp\.(gate_proj|up_proj|down_proj))"
#: A layer of a vision tower like CLIP's and SigLIP's.
ENCODER = r"(self_attn\.(q_proj|k_proj|v_proj|out_proj)|mlp\.(fc1|fc2))"
