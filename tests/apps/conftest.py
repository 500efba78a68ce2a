"""A running web app over a tiny model, two experts and two merges, for the tests that knock at its door."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
_SERVER = """
import json, signal, sys
from pathlib import Path
from apps.web import launch
from studio.data import load_data
from studio.variants import Engine
signal.signal(signal.SIGINT, signal.default_int_handler)  # a test run in the background ignores Ctrl-C
told = json.loads(sys.argv[1])
engine = Engine(told["base"], told["variants"])
data = {name: load_data(file) for name, file in told["data"].items()}
launch(engine, data=data, store_url=told["store"], port=told["port"])
"""


@dataclass(frozen=True, kw_only=True)
class WebApp:
    """A served app: its address, what it serves, and where it keeps comparisons."""

    address: str
    base: Path
    variants: dict[str, str | None]
    data: dict[str, str]
    store_url: str
    log: Path


@pytest.fixture(scope="session")
def web_variants(tiny: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return the tiny base and its variants: the base, two random experts and two merges of them."""
    import torch

    from mergers import MergeSpec, merge
    from studio.adapters import add_lora, save_adapter
    from studio.families import family

    base, folder = tiny("qwen_omni"), tmp_path_factory.mktemp("variants")
    omni = family("qwen_omni")
    variants: dict[str, str | None] = {"base": None}
    for seed, name in enumerate(("textiles", "commands"), start=5):
        model = add_lora(omni.load(base).model, omni, ["llm", "projector"], r=4, alpha=8, seed=seed)
        draw = torch.Generator().manual_seed(seed)
        for path, weight in model.named_parameters():
            if "lora_B" in path:
                weight.data.normal_(0, 0.4, generator=draw)
        variants[name] = str(save_adapter(model, folder / name, base=base, family=omni))
    experts = [str(variants["textiles"]), str(variants["commands"])]
    for method in ("linear", "ties"):
        spec = MergeSpec.from_flags(method=method, models=experts, base=base, output="adapter")
        merge(spec, folder / method)
        variants[method] = str(folder / method)
    return {"base": base, "variants": variants}


@pytest.fixture(scope="session")
def web_data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Return domain -> test file with pictures, recordings and texts."""
    folder = tmp_path_factory.mktemp("web-data")
    draw = np.random.default_rng(3)
    rows = []
    for place in range(3):
        pixels = np.kron(draw.integers(40, 220, (8, 8, 3)), np.ones((8, 8, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"cloth-{place}.png")
        time = np.arange(16000) / 16000
        tone = 0.3 * np.sin(2 * np.pi * (220 + 110 * place) * time) * np.sin(np.pi * time)
        soundfile.write(folder / f"voice-{place}.wav", tone.astype(np.float32), 16000)
        user = [
            {"type": "image", "path": f"cloth-{place}.png"},
            {"type": "audio", "path": f"voice-{place}.wav"},
            {"type": "text", "text": f"what is wrong here? {place}"},
        ]
        answer = {"role": "assistant", "content": "a hole at the top right"}
        rows.append({"messages": [{"role": "user", "content": user}, answer]})
    file = folder / "test.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return {"helpdesk": str(file)}


@pytest.fixture(scope="session")
def web_app(
    web_variants: dict[str, Any], web_data: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[WebApp]:
    """Return an app that runs in a process of its own, as `triptych app` would start it."""
    folder = tmp_path_factory.mktemp("web-app")
    store_url = f"sqlite:///{folder / 'kept.db'}"
    told = {
        "base": str(web_variants["base"]),
        "variants": web_variants["variants"],
        "data": web_data,
        "store": store_url,
        "port": 17860 + 60 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")),
    }
    log = folder / "log.txt"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GRADIO_")}
    with open(log, "w") as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVER, json.dumps(told)],
            cwd=ROOT,
            env=environment | {"TMPDIR": str(folder), "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        )
        try:
            assert process.stdout is not None
            address = next((word for line in process.stdout for word in line.split() if "://" in word), "")
            assert address, log.read_text()
            yield WebApp(
                address=address,
                base=web_variants["base"],
                variants=web_variants["variants"],
                data=web_data,
                store_url=store_url,
                log=log,
            )
        finally:
            process.send_signal(signal.SIGINT)
            process.communicate(timeout=60)
    assert process.returncode == 0, log.read_text()
