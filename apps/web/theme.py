"""How the app looks: paper and petrol by day, charcoal by night; fonts come with Gradio, none is fetched.

Only some of the fonts that come with Gradio hold the whole Latin alphabet: Plex Sans at 400 and 700 and Plex
Mono at 400 do.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import gradio as gr
from gradio.themes.utils import colors
from gradio.themes.utils.fonts import LocalFont

_HERE = Path(__file__).resolve().parent
_PETROL = colors.Color(
    name="petrol",
    c50="#eef6f6",
    c100="#d6e9e9",
    c200="#aed3d4",
    c300="#7db7b9",
    c400="#4b9699",
    c500="#2a7b7f",
    c600="#17656a",
    c700="#125257",
    c800="#114348",
    c900="#10393d",
    c950="#062327",
)
_PAPER = colors.Color(
    name="paper",
    c50="#faf8f4",
    c100="#f3efe8",
    c200="#e6e0d6",
    c300="#d3cabd",
    c400="#a79d90",
    c500="#776e64",
    c600="#5a534b",
    c700="#433e38",
    c800="#2a2724",
    c900="#1d1b19",
    c950="#141312",
)


@cache
def theme() -> gr.themes.Base:
    """Return the theme; every colour pair that carries text has a contrast of at least 4.5."""
    sans = (LocalFont("IBM Plex Sans", weights=(400, 700)), "system-ui", "sans-serif")
    mono = (LocalFont("IBM Plex Mono", weights=(400,)), "ui-monospace", "monospace")
    made = gr.themes.Base(
        primary_hue=_PETROL,
        secondary_hue=_PETROL,
        neutral_hue=_PAPER,
        radius_size="md",
        spacing_size="md",
        font=sans,
        font_mono=mono,
    )
    return made.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color="*neutral_900",
        body_text_color_dark="*neutral_100",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_400",
        background_fill_primary="#ffffff",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary="*neutral_100",
        background_fill_secondary_dark="*neutral_800",
        border_color_primary="*neutral_200",
        border_color_primary_dark="*neutral_700",
        block_background_fill="#ffffff",
        block_background_fill_dark="*neutral_900",
        block_border_color="*neutral_200",
        block_border_color_dark="*neutral_700",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_label_border_width_dark="0px",
        block_label_text_color="*neutral_600",
        block_label_text_color_dark="*neutral_300",
        block_title_text_color="*neutral_600",
        block_title_text_color_dark="*neutral_300",
        block_title_text_weight="600",
        block_shadow="none",
        input_background_fill="#ffffff",
        input_background_fill_dark="*neutral_900",
        input_border_color="*neutral_300",
        input_border_color_dark="*neutral_700",
        input_placeholder_color="*neutral_500",
        input_placeholder_color_dark="*neutral_400",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_300",
        button_primary_background_fill_hover_dark="*primary_200",
        button_primary_text_color="#ffffff",
        button_primary_text_color_dark="*primary_950",
        button_primary_border_color="transparent",
        button_secondary_background_fill="#ffffff",
        button_secondary_background_fill_hover="*neutral_100",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_secondary_border_color="*neutral_300",
        button_secondary_border_color_dark="*neutral_700",
        checkbox_label_background_fill="#ffffff",
        checkbox_label_background_fill_dark="*neutral_900",
        checkbox_label_background_fill_selected="*primary_50",
        checkbox_label_background_fill_selected_dark="*primary_900",
        checkbox_label_border_color="*neutral_300",
        checkbox_label_border_color_dark="*neutral_700",
        checkbox_label_border_color_selected="*primary_600",
        checkbox_label_border_color_selected_dark="*primary_400",
        checkbox_background_color_selected="*primary_700",
        checkbox_background_color_selected_dark="*primary_500",
        button_border_width="1px",
        button_border_width_dark="1px",
        button_primary_border_color_dark="transparent",
        slider_color="*primary_600",
        slider_color_dark="*primary_400",
    )


def head() -> str:
    """Return what stands in the page's head: the layout on top of the theme, and what the page does itself.

    The style sheet stands here and not in Gradio's ``css``, whose rewriting loses ``@container``.
    """
    styles = [_HERE / "style.css", *sorted(_HERE.glob("*/*.css"))]
    style = "".join(file.read_text(encoding="utf-8") for file in styles)
    script = (_HERE / "page.js").read_text(encoding="utf-8")
    return f"<style>{style}</style><script>{script}</script>"


def favicon() -> Path:
    """Return the picture in the browser's tab."""
    return _HERE / "favicon.svg"


def header_html(title: str, pages: Sequence[tuple[str, str]]) -> str:
    """Return the bar at the top: the mark, the way to the other pages and the light or dark switch.

    ``pages`` are titles and addresses below the app's own; the one named ``title`` is shown as open.
    """
    links = "".join(
        f'<a href="./{path}"{" aria-current=page" if name == title else ""}>{name}</a>'
        for name, path in pages
    )
    bar = f'<nav class="tp-nav" aria-label="Pages">{links}</nav>' if len(pages) > 1 else ""
    page = (_HERE / "header.html").read_text(encoding="utf-8")
    return page.replace("{pages}", bar).replace("{title}", title)
