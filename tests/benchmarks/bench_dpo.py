"""From votes back to training: experts, or their merge, learn what a judge prefers, of pictures and sounds.

    python tests/benchmarks/bench_dpo.py [--loss dpo] [--questions 120] [--steps 200] [--merge]

Two experts of nano-omni (textiles: pictures, commands: sounds) are trained for ``--steps`` steps, or taken
from where the demo left them (``--experts runs/demo/experts``). With ``--merge`` one adapter, the sum of both
at 0.7, answers in their place. Each is asked ``--questions`` questions about media of its training rows, and
as many about media of its test rows, from which nothing is learned. Beside its answer stand three more, as in
an app with four panels: the same with a full stop, and another label, without and with a full stop: the right
one if the answer is wrong, else one of another row. **The judge** prefers a right label to a wrong one, and
of two that say the same the one that ends with a full stop; it has no other reason. Its votes stand in a
store as the app's do, and are exported as by `triptych votes --export`: each is three pairs. The recipe dpo,
preset votes, goes on from the adapter. ``--short`` is another judge, who wants short answers instead of a
full stop ("hole, top left" for "defect: hole, place: top left", "stop heater 9" for "stop(heater 9)"): every
word of the answer then stands elsewhere than the expert learned to put it.

What is printed, for each domain, before and after: preference accuracy on the held-out votes (the share of
pairs in which the model finds the chosen answer likelier, per token); task accuracy, the share of test rows
whose label the model's own answer names, in whichever words; the share of its answers in the wanted form; and
what the judge says of the new answers beside the old. In percent with 95 % Wilson intervals.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from apps.demo import EXPERTS
from mergers import MergeSpec, merge
from recipes import dpo, sft
from studio import families
from studio.adapters import load_adapter
from studio.assets import find_data, find_model
from studio.config import from_dict, load
from studio.data import load_data
from studio.log import Log, PlainLog
from studio.scores import wilson
from studio.store import Store, media_folder
from studio.training.loss import TokenLoss
from studio.training.preference_data import rows_of
from studio.training.preference_rows import pairs
from studio.training.threads import set_threads
from studio.types import Sample
from studio.variants import Engine
from studio.votes import export_votes

DOMAINS = ("textiles", "commands")
#: What puts an answer in the form that the judge wants.
Form = Callable[[str], str]


def label(text: str) -> tuple[str, ...]:
    """Return what an answer says, in whichever of the two wordings."""
    return tuple(word for word in re.findall(r"[a-z0-9]+", text.lower()) if word not in ("defect", "place"))


def stopped(text: str) -> str:
    """Return an answer with a full stop."""
    return text.rstrip(".") + "."


def short(text: str) -> str:
    """Return an answer put shortly."""
    if "(" in text or ")" in text:
        return " ".join(label(text))
    return ", ".join(" ".join(label(part)) for part in text.split(","))


def judge(one: str, other: str, truth: str, form: Form) -> int:
    """Return 1 if the judge prefers ``one``, -1 if ``other``, 0 if it sees no difference."""
    seen = [
        (label(text) == label(truth), label(one) == label(other) and text == form(text))
        for text in (one, other)
    ]
    return (seen[0] > seen[1]) - (seen[0] < seen[1])


@dataclass(frozen=True, kw_only=True)
class Question:
    """A row with what the merge answers to it."""

    domain: str
    sample: Sample
    answer: str

    @property
    def truth(self) -> str:
        """The reference answer."""
        return self.sample.answer


def experts(domains: list[str], steps: int, folder: Path, log: Log) -> dict[str, Path]:
    """Return domain -> an expert that is trained now."""
    made = {}
    for domain in domains:
        settings = {**EXPERTS[domain], "max_steps": steps, "data": domain, "output": str(folder / domain)}
        made[domain] = sft.run(from_dict(sft.Config, settings), log).folder / "adapter"
    return made


def merged(adapters: dict[str, Path], folder: Path, log: Log) -> Path:
    """Return the merge of all experts."""
    spec = folder / "merge.yaml"
    models = [{"path": str(path)} for path in adapters.values()]
    about = {"method": "linear", "base": str(find_model("nano-omni")), "models": models}
    spec.write_text(json.dumps({**about, "settings": {"normalise": False, "weight": 0.7}}))
    merge(MergeSpec.from_yaml(spec), folder / "merge", log)
    return folder / "merge"


def vote(
    questions: list[Question], labels: dict[str, list[str]], folder: Path, seed: int, form: Form
) -> Path:
    """Let the judge vote on all questions, and return the folder of the exported votes."""
    draw = random.Random(seed)
    url = f"sqlite:///{folder / 'triptych.db'}"
    kept = media_folder(url)
    assert kept is not None
    kept.mkdir(parents=True)
    with Store(url) as store:
        for each in questions:
            said = [part for turn in each.sample.prompt for part in turn.parts]
            hashes = []
            for part in said:
                if hasattr(part, "path"):
                    hashes.append(hashlib.sha256(part.path.read_bytes()).hexdigest())
                    shutil.copy(part.path, kept / f"{hashes[-1]}{part.path.suffix}")
            wrong = draw.choice([text for text in labels[each.domain] if label(text) != label(each.truth)])
            other = wrong if label(each.answer) == label(each.truth) else each.truth
            texts = list(dict.fromkeys((each.answer, form(each.answer), other, form(other))))
            draw.shuffle(texts)
            panels = dict(zip("abcd", texts, strict=False))
            right = [name for name, text in panels.items() if label(text) == label(each.truth)]
            best = next(name for name in right if panels[name] == form(panels[name]))
            number = store.add_comparison(
                each.sample.turns[0].text, list(panels), media=hashes, domain=each.domain
            )
            for name, text in panels.items():
                store.add_answer(number, name, text)
            store.vote(number, best, rater="judge")
        export_votes(store, kept, folder / "votes")
    return folder / "votes"


def ranked(adapters: dict[str, Path], rows: list[Sample]) -> dict[str, list[bool]]:
    """Return whether each model finds the chosen answer of each preference likelier, per token."""
    base = find_model("nano-omni")
    family = families.detect(base)
    ways, places = rows_of(pairs(rows))
    processor = family.load(base).processor
    encoded = [family.encode(processor, way, True) for way in ways]
    order = sorted(range(len(ways)), key=lambda at: len(encoded[at]["input_ids"]))
    met: dict[str, list[bool]] = {}
    for name, adapter in adapters.items():
        model = load_adapter(family.load(base).model, adapter).eval()
        loss, mean = TokenLoss(model, torch.device("cpu")), torch.zeros(len(ways))
        with torch.no_grad():
            for at in range(0, len(order), 32):
                which = order[at : at + 32]
                batch = family.collate(processor, [encoded[row] for row in which], "right")
                total, tokens = loss.rows(model, batch, len(which))
                mean[which] = total / tokens
        met[name] = [bool(mean[chosen] > mean[rejected]) for chosen, rejected in places]
    return met


def told(hits: int, count: int) -> str:
    """Return a share in percent with its interval."""
    low, high = wilson(hits, count)
    return f"{100 * hits / count:.1f} ({100 * low:.0f}-{100 * high:.0f})"


def main() -> None:
    """Train, merge, vote, learn, ask, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--loss", default="dpo", choices=("dpo", "ipo", "kto", "orpo", "simpo"))
    parser.add_argument("--questions", type=int, default=120, help="of each domain, to vote on")
    parser.add_argument("--steps", type=int, default=200, help="of each expert")
    parser.add_argument("--rows", type=int, default=250, help="test rows of each domain")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--experts", type=Path, help="folder of experts by domain, instead of training them")
    parser.add_argument("--merge", action="store_true", help="start from the merge of both experts")
    parser.add_argument("--short", action="store_true", help="the judge wants short answers")
    parser.add_argument("--domains", nargs="+", default=list(DOMAINS), choices=DOMAINS)
    parser.add_argument("--keep", type=Path, help="folder for the runs, which are otherwise thrown away")
    parser.add_argument("settings", nargs="*", help="of the recipe dpo, beside the preset votes: lr=1e-3")
    options = parser.parse_args()
    options.form = short if options.short else stopped
    set_threads()
    with tempfile.TemporaryDirectory() as scratch:
        bench(options, options.keep or Path(scratch))


def bench(options: argparse.Namespace, folder: Path) -> None:
    """Do all of it in ``folder``."""
    log: Log = PlainLog(every=20)
    seconds: dict[str, float] = {}
    folder.mkdir(parents=True, exist_ok=True)
    clock = Clock(seconds)
    if options.experts:
        adapters = {domain: options.experts / domain / "adapter" for domain in options.domains}
    else:
        adapters = experts(options.domains, options.steps, folder, log)
    if options.merge:
        adapters = dict.fromkeys(adapters, merged(adapters, folder, log))
    clock.lap("experts")
    asked: dict[tuple[str, str], list[Question]] = {}
    labels: dict[str, list[str]] = {}
    for domain, adapter in adapters.items():
        rows = load_data(find_data(domain), split="train")
        labels[domain] = sorted({row.answer for row in rows})
        asked[domain, "train"] = ask(adapter, domain, rows[: options.questions])
        asked[domain, "test"] = ask(
            adapter, domain, load_data(find_data(domain), split="test")[: options.rows]
        )
    clock.lap("asking")

    found: dict[str, Any] = {}
    for number, start in enumerate(dict.fromkeys(adapters.values())):
        domains = [domain for domain in adapters if adapters[domain] == start]
        votes = {
            split: vote(
                [q for domain in domains for q in asked[domain, split][: options.questions]],
                labels, folder / f"{number}-{split}", options.seed + (split == "test"), options.form,
            )
            for split in ("train", "test")
        }  # fmt: skip
        clock.lap("voting")
        done = learn(options, start, votes, folder / f"{number}-preferred", log)
        clock.lap("dpo")
        held_out = load_data(votes["test"] / "preferences.jsonl")
        learned = load_data(votes["train"] / "preferences.jsonl")
        met = ranked({"before": start, "after": done}, held_out)
        for domain in domains:
            test = asked[domain, "test"]
            now = ask(done, domain, [q.sample for q in test])
            mine = [at for at, row in enumerate(held_out) if row.groups["domain"] == domain]
            found[domain] = {
                name: {
                    "preference": (sum(met[name][at] for at in mine), len(mine)),
                    "task": (sum(label(q.answer) == label(q.truth) for q in questions), len(test)),
                    "form": (sum(q.answer == options.form(q.answer) for q in questions), len(test)),
                }
                for name, questions in (("before", test), ("after", now))
            }
            verdicts = [
                judge(new.answer, old.answer, old.truth, options.form)
                for new, old in zip(now, test, strict=True)
            ]
            found[domain]["judge"] = {
                "better": verdicts.count(1), "worse": verdicts.count(-1), "n": len(test),
                "votes": sum(row.groups["domain"] == domain for row in learned),
            }  # fmt: skip
        clock.lap("measuring")
    tell(found, seconds, options)


class Clock:
    """Adds up seconds by name."""

    def __init__(self, seconds: dict[str, float]) -> None:
        """Start now."""
        self._seconds, self._since = seconds, time.monotonic()

    def lap(self, name: str) -> None:
        """Add the time since the last lap."""
        now = time.monotonic()
        self._seconds[name] = round(self._seconds.get(name, 0.0) + now - self._since, 1)
        self._since = now


def ask(adapter: Path, domain: str, samples: list[Sample]) -> list[Question]:
    """Return what an adapter answers."""
    engine = Engine(find_model("nano-omni"), {"it": adapter})
    given = engine.answers("it", samples, max_new_tokens=24, batch_size=32)
    return [Question(domain=domain, sample=s, answer=text) for s, text in zip(samples, given, strict=True)]


def learn(options: argparse.Namespace, start: Path, votes: dict[str, Path], folder: Path, log: Log) -> Path:
    """Return the adapter that has gone on from ``start`` with the votes."""
    given = [
        f"data={votes['train']}", f"eval_data={votes['test'] / 'preferences.jsonl'}",
        f"adapter.start={start}", f"output={folder}", f"loss={options.loss}", f"seed={options.seed}",
    ]  # fmt: skip
    config = load(dpo.Config, overrides=[*given, *options.settings], preset="votes", presets=dpo.PRESETS)
    return dpo.run(config, log).folder / "adapter"


def tell(found: dict[str, Any], seconds: dict[str, float], options: argparse.Namespace) -> None:
    """Print the table, and the same as JSON."""
    start = "their merge" if options.merge else "each expert"
    print(f"\n{options.loss} from {start}, seed {options.seed}; seconds: {seconds}")
    print(
        "\n| domain | | preference accuracy, held out | task accuracy | wanted form |\n|---|---|---|---|---|"
    )
    for domain, sides in found.items():
        for name in ("before", "after"):
            cells = [told(*sides[name][key]) for key in ("preference", "task", "form")]
            print(f"| {domain} | {name} | {' | '.join(cells)} |")
        rise, lost = (
            100 * (sides["after"][key][0] - sides["before"][key][0]) / sides["after"][key][1]
            for key in ("preference", "task")
        )
        by = sides["judge"]
        told_by = f"new answer {by['better']} times, the old one {by['worse']}, of {by['n']}"
        print(
            f"| {domain} | change, {by['votes']} pairs | {rise:+.1f} | {lost:+.1f} | "
            f"the judge prefers the {told_by} |"
        )
    print(json.dumps({"loss": options.loss, "seed": options.seed, "merge": options.merge, "found": found}))


if __name__ == "__main__":
    main()
