"""Ways to fine-tune, by name: what `method=` takes, and what each of them needs.

Every method of PEFT stands here, with what this house knows of it, or with the reason why it does not work;
a test holds the table against PEFT's own list. Nothing heavy is imported: a mistake is told at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from studio.errors import ConfigError, unknown

#: `factors` are saved as plain LoRA, which merges; `weights` as PEFT saves them, which only load.
Saved = Literal["factors", "weights", "model"]


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to fine-tune.

    type      PEFT's name of the kind of adapter, empty for what needs no PEFT
    about     one line for people
    given     settings of PEFT's configuration that the name stands for, or that suit every model
    r, alpha, dropout
              the fields that take `adapter.r`, `.alpha` and `.dropout`; empty where there is none
    block     a field whose value must divide the layers' sizes, and the size it has if it can
    patterns  whether modules may differ in rank and strength
    """

    name: str
    type: str = ""
    about: str = ""
    given: Mapping[str, Any] = field(default_factory=dict)
    saved: Saved = "weights"
    r: str = ""
    alpha: str = ""
    dropout: str = ""
    block: tuple[str, int] | None = None
    patterns: bool = False


def _lora(name: str, about: str, **given: Any) -> Method:
    return Method(
        name=name, type="LORA", about=about, given=given, saved="factors",
        r="r", alpha="lora_alpha", dropout="lora_dropout", patterns=True,
    )  # fmt: skip


def _other(name: str, about: str, **more: Any) -> Method:
    return Method(name=name, type=name.upper(), about=about, **more)


_ALL = (
    Method(name="full", about="all weights of the chosen towers", saved="model"),
    Method(name="bitfit", type="LORA", about="biases alone (arXiv:2106.10199)", saved="factors"),
    _lora("lora", "low-rank factors (arXiv:2106.09685)"),
    _lora("rslora", "LoRA scaled by 1/sqrt(r), for high ranks (arXiv:2312.03732)", use_rslora=True),
    _lora("dora", "LoRA with the weights' lengths apart (arXiv:2402.09353)", use_dora=True),
    _lora("pissa", "LoRA from the leading singular vectors (arXiv:2404.02948)", init_lora_weights="pissa"),
    _lora("olora", "LoRA from a QR decomposition (arXiv:2406.01775)", init_lora_weights="olora"),
    Method(
        name="adalora", type="ADALORA", about="LoRA whose ranks move where they help (arXiv:2303.10512)",
        saved="factors", alpha="lora_alpha", dropout="lora_dropout",
    ),
    _other("adamss", "subspaces of the weights, chosen as it trains", r="r"),
    _other("beft", "biases of linear layers, added (arXiv:2509.15974)"),
    _other("boft", "butterflies of rotations (arXiv:2311.06243)", dropout="boft_dropout",
           block=("boft_block_size", 4)),
    _other("c3a", "circular convolutions (arXiv:2407.19342)", given={"init_weights": True},
           block=("block_size", 256)),
    _other("deft", "projections taken out and put back", r="r", dropout="deft_dropout"),
    _other("delora", "LoRA with its angle and strength apart (arXiv:2503.18225)", r="r",
           dropout="module_dropout"),
    _other("fourierft", "a few frequencies of the delta (arXiv:2405.03003)", given={"init_weights": True}),
    _other("frod", "rotations shared by layers, sparse", dropout="frod_dropout",
           given={"progressbar": False}),
    _other("glora", "generalised LoRA (arXiv:2306.07967)", r="r"),
    _other("gralora", "LoRA by blocks (arXiv:2505.20355)", r="r", alpha="alpha", dropout="gralora_dropout"),
    _other("hira", "products of the weight with low ranks", r="r", dropout="hira_dropout"),
    _other("hra", "Householder reflections (arXiv:2405.17484)", r="r"),
    _other("ia3", "scales of keys, values and inner activations (arXiv:2205.05638)"),
    _other("lily", "low ranks shared by layers (arXiv:2407.09946)", r="r"),
    _other("ln_tuning", "norms alone (arXiv:2312.11420)"),
    _other("loha", "Hadamard products of low ranks (arXiv:2108.06098)", r="r", alpha="alpha",
           dropout="module_dropout", patterns=True),
    _other("lokr", "Kronecker products (arXiv:2309.14859)", r="r", alpha="alpha",
           dropout="module_dropout", patterns=True),
    _other("miss", "shards shared within a weight (arXiv:2409.15371)", r="r", dropout="miss_dropout"),
    _other("oft", "rotations by blocks (arXiv:2306.07280)", dropout="module_dropout", given={"r": 0},
           block=("oft_block_size", 32)),
    _other("osf", "all but the leading singular vectors (arXiv:2504.07097)"),
    _other("peanut", "small networks of the weights (arXiv:2410.01870)", r="r"),
    _other("psoft", "rotations of the principal subspace", r="r", dropout="psoft_dropout"),
    _other("pvera", "VeRA with noise (arXiv:2512.07703)", r="r", dropout="pvera_dropout"),
    _other("randlora", "sums of random bases (arXiv:2502.00987)", r="r", dropout="randlora_dropout"),
    _other("road", "rotations in two dimensions (arXiv:2409.00119)", block=("group_size", 64)),
    _other("shira", "a few entries of each weight (arXiv:2406.13175)", r="r"),
    _other("supertuning", "leading entries of each weight, low ranks (arXiv:2607.09287)", r="r",
           alpha="lora_alpha", dropout="lora_dropout"),
    _other("tinylora", "a handful of numbers a layer (arXiv:2602.04118)", dropout="tinylora_dropout"),
    _other("unilora", "one vector for all layers (arXiv:2506.00799)", r="r", dropout="unilora_dropout"),
    _other("vblora", "factors from a shared bank of vectors (arXiv:2405.15179)", dropout="vblora_dropout",
           block=("vector_length", 256)),
    _other("vera", "scales of shared random factors (arXiv:2310.11454)", dropout="vera_dropout"),
    _other("waveft", "a few wavelets of the delta (arXiv:2505.12532)", given={"init_weights": True}),
)  # fmt: skip

METHODS: Mapping[str, Method] = {method.name: method for method in _ALL}

#: Names that people will try, and why they are refused.
REFUSED: Mapping[str, str] = {
    "adaption_prompt": "PEFT has it for the text models Llama, Mistral and GPT-2 only",
    "bottleneck": "PEFT has no bottleneck adapters; peanut (non-linear) and ia3 come nearest",
    "cartridge": "its keys and values come from a text read beforehand, not from training rows",
    "corda": "it needs covariances of activations before training; pissa starts from the weights alone",
    "cpt": "it labels each token of a fixed text prompt, which media rows do not have",
    "eva": "it needs activations before training; pissa starts from the weights alone",
    "houlsby": "PEFT has no bottleneck adapters; peanut (non-linear) and ia3 come nearest",
    "loftq": "it changes the base without keeping it; use method=lora with precision=nf4",
    "lora_ga": "it needs gradients before training; pissa starts from the weights alone",
    "lora_plus": "it is a rate and not an adapter: use method=lora optimiser.loraplus=16",
    "multitask_prompt_tuning": "it needs a number of the task with every row",
    "poly": "it needs a number of the task with every row",
    "qlora": "it is LoRA on a base in fewer bits: use method=lora precision=nf4 (or int8)",
    "shadow": "it builds a second text model and knows none of these architectures",
    "trainable_tokens": "it trains the embedding of single tokens; give that tower the rule full",
    "xlora": "it mixes adapters that exist already; merge them instead",
    **dict.fromkeys(
        ("prefix_tuning", "prompt_tuning", "p_tuning"),
        "PEFT's do without a word something else than the same tokens would where positions or types are "
        "counted for media (M-RoPE), and generation does not see them; use ia3, or lora with a small r",
    ),
}

RULES = ("lora", "full", "bitfit", "frozen")


def method(name: str) -> Method:
    """Return what is known of a method; `ConfigError` with the reason if it cannot be used."""
    if name in METHODS:
        return METHODS[name]
    if name in REFUSED:
        raise ConfigError(f"method={name} does not work here: {REFUSED[name]}")
    raise ConfigError(unknown("method", name, METHODS))


def check_rank(found: Method, asked: Iterable[str], where: str) -> None:
    """Raise `ConfigError` if a method has no such setting among ``r``, ``alpha`` and ``dropout``."""
    for key in asked:
        if not getattr(found, key) and not (found.name == "adalora" and key == "r"):
            raise ConfigError(
                f"{where}.{key}: method={found.name} has no {key}; set its own settings in adapter.options"
            )
