"""The model card of the shipped base, filled in by the recipe `nano` that makes it."""

from __future__ import annotations

from studio.runs import Record
from studio.types import Score

CARD = """---
library_name: transformers
license: apache-2.0
tags: [image-text-to-text, audio-text-to-text, triptych]
---
# nano-omni

A Qwen2.5-Omni thinker of {millions} million parameters (picture, sound and text in, text out), trained from
random weights on rendered data. It makes Triptych's first command work offline and its tests real; it knows
nothing of the world.

- Made by `triptych run nano seed={seed}` on {date}: {minutes} minutes on 2 CPU cores, rendering
  included; torch {torch}.
- Data: {pictures} rendered pictures with written questions (shape, colour, place, count, texture, odd spot,
  printed figure or letter, description), {clips} clips of one to four spoken words, {both} pictures with
  spoken questions, sound classes and short text instructions. The voices are espeak-ng's, six accents and 38
  variants; the test has eight other variants. No picture, sentence pattern or answer format of the demo's
  domains is in it.
- Training: {listen_steps} steps of the audio tower with CTC and {strain_steps} on warped and masked clips;
  beside that {read_steps} of the language model on texts and {recognise_steps} of the vision tower naming
  what is known of a picture; then {learn_steps} steps of everything. Muon for the layers' matrices, AdamW
  for the rest, peak learning rate {lr}, products in bfloat16.

Exact match on its own held-out test set, greedy decoding, 95 % Wilson intervals:

| kind | accuracy, % | n | interval |
|---|---|---|---|
{scores}
Pictures are scaled to 64 x 64 pixels; sounds may last 8 seconds; anything longer is an error, never cut.
"""


def card(record: Record, millions: float, scores: dict[str, Score]) -> str:
    """Return the model card: what it is, how it was made, and its accuracy on the held-out general set."""
    rows = "".join(
        f"| {name} | {100 * s.value:.1f} | {s.n} | {100 * s.low:.1f} to {100 * s.high:.1f} |\n"
        for name, s in scores.items()
    )
    return CARD.format(
        **record.config, date=record.started[:10], torch=record.versions["torch"], scores=rows,
        millions=f"{millions:.1f}", minutes=f"{sum(record.timings.values()) / 60:.0f}",
    )  # fmt: skip
