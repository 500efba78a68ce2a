"""Convert data between our rows and the formats of other tools, without loss.

IN is a file or a folder in any format that `triptych ls formats` lists; what it is, is found out and told.
OUT is a new folder with the data and its media, written whole or not at all; IN is not changed. `triptych
show NAME` says what a format keeps in a key of its own, and what it refuses.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from studio import plugins

EXAMPLE = (
    "triptych convert LLaMA-Factory/data/mllm_demo.json data/demo --to triptych\n"
    "triptych convert data/demo out/demo --to sharegpt\n"
    "triptych convert voices/train.tsv data/voices --to triptych --media voices/clips --skip-bad 10"
)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    formats = ", ".join(plugins.names("formats"))
    parser.add_argument("data", metavar="IN", type=Path, help="a file or folder of data")
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    parser.add_argument("--to", metavar="NAME", required=True, help=f"the format to write: {formats}")
    parser.add_argument(
        "--from", metavar="NAME", dest="source", help="the format to read; found out if left out"
    )
    parser.add_argument(
        "--skip-bad",
        metavar="N",
        type=_count,
        default=0,
        help="leave out up to N rows that are wrong, and name them in OUT/skipped.txt (default 0)",
    )
    parser.add_argument(
        "--media",
        metavar="DIR",
        type=Path,
        help="the folder that media paths are relative to (default: the data's)",
    )
    parser.add_argument("--link", action="store_true", help="hard-link media instead of copying them")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{number} is less than 0")
    return number


def run(options: argparse.Namespace) -> int:
    """Convert, and say from what to what, how many rows, and which were left out."""
    from studio.assets import find_data
    from studio.data.formats import convert
    from studio.log import best_log

    done = convert(
        find_data(options.data),
        options.out,
        options.to,
        source=options.source,
        skip=options.skip_bad,
        media=options.media,
        link=options.link,
        log=best_log(),
    )
    if options.json:
        told = {
            "from": done.source,
            "why": done.why,
            "to": done.target,
            "out": str(done.folder),
            "splits": done.splits,
            "skipped": list(done.skipped),
            "unseen": list(done.unseen),
        }
        print(json.dumps(told, indent=2, ensure_ascii=False))
        return 0
    print(f"{options.data} is {done.source}: {done.why}")
    for split, rows in done.splits.items():
        print(f"  {split:<12} {rows} rows")
    print(f"written as {done.target} to {done.folder}")
    if done.unseen:
        print(f"kept for the way back, and unknown to {done.target}: {', '.join(done.unseen)}")
    if done.skipped:
        print(f"left out {len(done.skipped)}, named in {done.folder / 'skipped.txt'}:")
        print("\n".join(f"  {sentence}" for sentence in done.skipped[:10]))
    return 0
