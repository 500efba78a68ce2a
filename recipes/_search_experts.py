"""The experts of a search: found, or trained here; and one model trained on all domains, to compare with."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recipes._baselines import read_expert
from recipes._search_rows import Taken
from studio import plugins
from studio.adapters import CONFIG_FILE, WEIGHTS_FILE, is_adapter
from studio.assets import find_data
from studio.config import from_dict
from studio.data import load_data
from studio.data.formats._copies import Copies
from studio.data.formats._ledger import Ledger
from studio.data.jsonl import data_splits, write_jsonl
from studio.errors import ConfigError
from studio.files import sha256_file
from studio.log import Log
from studio.types import Sample

if TYPE_CHECKING:
    from recipes.search import Config

#: Under this name a model trained on all domains at once is reported.
TOGETHER = "multitask"


@dataclass(frozen=True, kw_only=True)
class Against:
    """Which baselines are reported beside base, experts and plain average."""

    peft: bool = field(default=True, metadata={"help": "the best of PEFT's combinations"})
    mergekit: bool = field(default=True, metadata={"help": "the best of mergekit's merges"})
    multitask: bool = field(
        default=False, metadata={"help": "train one adapter on all domains, as `training` says"}
    )
    keep: int = field(default=2, metadata={"help": "how many of PEFT's and mergekit's are reported, each"})


def find_experts(config: Config, model: Path, data: Mapping[str, str], log: Log) -> dict[str, Path]:
    """Return domain -> adapter folder, training those that no folder is given for.

    Raises:
        ConfigError: a folder without an adapter in it.
        CheckpointError: an adapter that is no plain LoRA, or belongs to another base.
    """
    found: dict[str, Path] = {}
    for domain, given in config.experts.items():
        if given is None:
            found[domain] = _trained(config, data[domain], config.output / "experts" / domain, log)
            continue
        folder = Path(given)
        found[domain] = folder if is_adapter(folder) else folder / "adapter"
        if not is_adapter(found[domain]):
            raise ConfigError(
                f"experts.{domain}: there is no adapter in {given}; give an adapter's or a run's folder, "
                "or null to train one"
            )
        read_expert(found[domain], model)
    return found


def several_tasks(config: Config, rows: Mapping[str, Taken], log: Log) -> dict[str, Path]:
    """Return the adapter that is trained on all domains at once, without the report's rows, by its name.

    Raises:
        TriptychError: what `sft` says.
    """
    folder = config.output / TOGETHER
    if not (folder / "data" / "train.jsonl").is_file():
        (folder / "data").mkdir(parents=True, exist_ok=True)
        union: list[Sample] = []
        copies = Copies(folder / "data", Ledger(folder / "data", link=True))
        for domain, taken in rows.items():
            path = find_data(config.data.get(domain, domain))
            split = config.rows.search_split if path.is_dir() and len(data_splits(path)) > 1 else None
            apart = {(s.file, s.line) for s in taken.report}
            for sample in load_data(path, split):
                if (sample.file, sample.line) not in apart:
                    moved, media = copies.named(sample)
                    copies.place(media)
                    union.append(moved)
        write_jsonl(folder / "data" / "train.jsonl", union)
    return {TOGETHER: _trained(config, str(folder / "data"), folder / "run", log)}


def hash_of(adapters: Iterable[Path]) -> str:
    """Return a SHA-256 over the contents of adapters, in order."""
    parts = [sha256_file(folder / name) for folder in adapters for name in (WEIGHTS_FILE, CONFIG_FILE)]
    return sha256("\n".join(parts).encode()).hexdigest()


def _trained(config: Config, data: str, output: Path, log: Log) -> Path:
    sft: Any = plugins.load("recipes", "sft")
    settings = {
        "seed": config.seed, **config.training, "model": config.model, "data": data, "output": str(output),
    }  # fmt: skip
    log.say(f"training on {data}: triptych run sft, into {output}")
    folder: Path = sft.run(from_dict(sft.Config, settings), log).folder
    return folder / "adapter"
