"""The fields of a question, for the pages that ask one; each call puts a new one into the current Blocks."""

from __future__ import annotations

from typing import Any

import gradio as gr

from apps.web.desk import MOST
from apps.web.question import MAX_CHARACTERS
from apps.web.rounds import Decoding
from studio.errors import DataError

LONGEST, HOTTEST = 256, 1.5
"""Longest answer, in tokens, and highest temperature that a page allows."""
_FEW = 12
"""Up to so many variants are shown as chips, more in a list that can be searched."""


def picture(
    *, height: int = 190, placeholder: str = "Drop a picture, or click to choose one", min_width: int = 160
) -> gr.Image:
    """Return the field for a picture: by file, webcam or clipboard."""
    return gr.Image(
        label="Picture",
        type="filepath",
        image_mode=None,
        sources=["upload", "webcam", "clipboard"],
        height=height,
        buttons=["fullscreen"],
        placeholder=placeholder,
        alt_text="The picture of the question",
        min_width=min_width,
        elem_id="tp-picture",
    )


def sound(*, min_width: int = 160) -> gr.Audio:
    """Return the field for a recording: by file or microphone."""
    return gr.Audio(
        label="Recording",
        type="filepath",
        sources=["upload", "microphone"],
        buttons=[],
        waveform_options=gr.WaveformOptions(waveform_color="#a79d90", waveform_progress_color="#2a7b7f"),
        min_width=min_width,
        elem_id="tp-sound",
    )


def text() -> gr.Textbox:
    """Return the field for the words of the question."""
    return gr.Textbox(
        label="Text",
        placeholder="Ask about the picture or the recording",
        lines=1,
        max_lines=6,
        max_length=MAX_CHARACTERS,
        elem_id="tp-text",
    )


def further() -> gr.Textbox:
    """Return the field for a question after the answers."""
    return gr.Textbox(
        label="Ask all of them further",
        placeholder="Each goes on from its own answer",
        lines=1,
        max_lines=4,
        max_length=MAX_CHARACTERS,
        elem_id="tp-more-text",
    )


def decoding() -> list[gr.Slider | gr.Number]:
    """Return the settings of answering: longest answer, temperature, seed."""
    with gr.Accordion("Decoding, the same for all", open=False, elem_id="tp-decoding"):
        return [
            gr.Slider(8, LONGEST, value=48, step=8, label="Longest answer, in tokens"),
            gr.Slider(
                0,
                HOTTEST,
                value=0,
                step=0.1,
                label="Temperature",
                info="0 is exact: the same answer every time",
            ),
            gr.Number(0, precision=0, minimum=0, maximum=2**31 - 1, label="Seed"),
        ]


def variants(count: int) -> gr.CheckboxGroup | gr.Dropdown:
    """Return the field that chooses among about ``count`` variants; it names none and is not shown yet."""
    label = f"Variants, 2 to {MOST}"
    if count <= _FEW:
        return gr.CheckboxGroup([], label=label, visible=False, elem_id="tp-variants")
    return gr.Dropdown(
        [], label=label, visible=False, multiselect=True, max_choices=MOST, elem_id="tp-variants"
    )


def read_decoding(tokens: Any, temperature: Any, seed: Any) -> Decoding:
    """Return the settings that a page sent.

    Raises:
        DataError: one that is no number, or out of range.
    """
    try:
        made = Decoding(
            max_new_tokens=int(tokens), temperature=round(float(temperature), 3), seed=int(seed or 0)
        )
    except (TypeError, ValueError, OverflowError):
        raise DataError("The decoding settings must be numbers.") from None
    if not (1 <= made.max_new_tokens <= LONGEST and 0 <= made.temperature <= HOTTEST and made.seed >= 0):
        raise DataError(
            f"Decoding allows 1 to {LONGEST} tokens, a temperature from 0 to {HOTTEST} and a seed from 0."
        )
    return made
