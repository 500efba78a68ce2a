"""Precision and recall of the near-duplicate steps of curation on sets with planted duplicates.

    python tests/benchmarks/bench_curate.py              # 1,000 texts, 248 pictures, 150 sounds, with copies
    python tests/benchmarks/bench_curate.py 200 60 40    # so many

Texts are docstrings of the standard library, each with one edited copy. Pictures are patches of two
photographs, shipped cloth and handwriting, sounds are shipped commands of several voices; each has a copy of
every kind of edit. All rows with media ask and answer the same, so that only the media tell them apart.
A copy is found when its row is removed; an original that is removed is a false alarm. The first line
counts re-encodings and small edits, for which 0.95 at 0.98 is promised; then each kind of edit, the hard ones
too. All false alarms of a step count against each of its kinds.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))


def measure(folder: Path, step: str, kinds: Mapping[int, str]) -> tuple[Counter[str], int]:
    """Return how many copies of each kind a step finds in a set, and how many originals it removes."""
    from studio.cache import Kept
    from studio.data import load_data
    from studio.data.steps._step import Bench, read_steps
    from studio.log import QuietLog

    [made] = read_steps([step])
    bench = Bench(log=QuietLog(), kept=Kept(folder / "cache"))
    removed = [edit.at[1] for edit in made.run(load_data(folder), made.settings, bench).edits]
    return Counter(kinds[line] for line in removed if line in kinds), sum(
        line not in kinds for line in removed
    )


def figures(
    found: Mapping[str, int], false: int, kinds: Mapping[int, str], hard: tuple[str, ...]
) -> tuple[float, float]:
    """Return precision and recall over the kinds of edits that are not hard."""
    planted = Counter(kinds.values())
    right = sum(count for kind, count in found.items() if kind not in hard)
    wanted = sum(count for kind, count in planted.items() if kind not in hard)
    return right / max(right + false, 1), right / wanted


def main(sizes: list[int]) -> None:
    """Plant, measure and print."""
    from tests.studio import planted

    texts, pictures, sounds = (sizes + [1000, 248, 150][len(sizes) :])[:3]
    with tempfile.TemporaryDirectory() as folder:
        for step in ("text_duplicates", "image_duplicates", "sound_duplicates"):
            place = Path(folder, step)
            if step == "text_duplicates":
                kinds = planted.plant_texts(place, texts)
            elif step == "image_duplicates":
                share = pictures // 5
                things = planted.pictures(min(48, share), 2 * share, 2 * share)
                kinds = planted.plant_media(place, things, planted.PICTURE_EDITS, "image")
            else:
                kinds = planted.plant_media(place, planted.sounds(sounds), planted.SOUND_EDITS, "audio")
            began = time.process_time()
            found, false = measure(place, step, kinds)
            spent = time.process_time() - began
            rows = max(kinds)
            precision, recall = figures(found, false, kinds, planted.HARD)
            print(f"{step}: {rows} rows, precision {precision:.4f}, recall {recall:.4f}, "
                  f"{rows / spent:.0f} rows/CPU s")  # fmt: skip
            count = Counter(kinds.values())
            for kind in dict.fromkeys(kinds.values()):
                mark = " (hard)" if kind in planted.HARD else ""
                share = found[kind] / count[kind]
                right = found[kind] / max(found[kind] + false, 1)
                print(f"    {kind + mark:28} {found[kind]:5} of {count[kind]:5}  "
                      f"recall {share:.3f}  precision {right:.3f}")  # fmt: skip


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]])
