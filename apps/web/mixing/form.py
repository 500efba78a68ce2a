"""The form of a mix as HTML: experts with sliders, the method and its settings; every name is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from apps.web.mixing.recipe import MOST, REACH, Mix, Setting, methods, settings_of, weighted

_TOWERS = {
    "llm": "Language model",
    "projector": "Projector",
    "vision": "Pictures",
    "audio": "Sound",
    "speech": "Speech",
}


def form_html(mix: Mix, experts: Sequence[str], towers: Sequence[str]) -> str:
    """Return the form; ``experts`` are all there are, ``towers`` those that the chosen ones change."""
    if not experts:
        return (
            '<p class="tp-hint">There is no expert to mix yet: train one, or start the app with adapters.</p>'
        )
    boxes = "".join(
        f'<label class="mx-chip"><input type="checkbox" name="expert" value="{escape(name)}"'
        f"{' checked' if name in mix.experts else ''}><span>{escape(name)}</span></label>"
        for name in experts
    )
    options = "".join(
        f'<option value="{name}"{" selected" if name == mix.method else ""}>{name}</option>'
        for name in methods()
    )
    if weighted(mix.method):
        body = "".join(_expert(mix, name, place, towers) for place, name in enumerate(mix.experts))
    else:
        body = f'<p class="tp-hint">{mix.method} finds the weights itself.</p>'
    settings = "".join(
        _setting(each, mix.settings.get(each.name, each.default)) for each in settings_of(mix.method)
    )
    return (
        f'<form class="mx-form" data-settings-of="{mix.method}" onsubmit="return false">'
        f'<fieldset class="mx-experts"><legend>Experts, 1 to {MOST}</legend>{boxes}</fieldset>'
        f'<label class="mx-method"><span>Method</span><select name="method">{options}</select></label>'
        f"{body}"
        + (
            f'<fieldset class="mx-settings"><legend>Settings of {mix.method}</legend>{settings}</fieldset>'
            if settings
            else ""
        )
        + "</form>"
    )


def _expert(mix: Mix, name: str, place: int, towers: Sequence[str]) -> str:
    shown = escape(name)
    own = mix.weights.get(name, {})
    rows = "".join(_tower(mix, name, tower, tower in own) for tower in towers) if len(towers) > 1 else ""
    details = (
        f"<details{' open' if len(own) > 1 else ''}><summary>By part of the model</summary>{rows}"
        '<button type="button" class="mx-reset">All parts alike</button></details>'
        if rows
        else ""
    )
    return (
        f'<fieldset class="mx-expert" data-expert="{shown}"><legend>{shown}</legend>'
        f"{_slider('', 'Weight', f'Weight of {shown}', mix.weight(name), True)}{details}</fieldset>"
    )


def _tower(mix: Mix, name: str, tower: str, own: bool) -> str:
    label = _TOWERS.get(tower, tower)
    return _slider(tower, label, f"{label}, weight of {escape(name)}", mix.weight(name, tower), own)


def _slider(tower: str, label: str, spoken: str, value: float, own: bool) -> str:
    return (
        f'<label class="mx-slider"><span>{label}</span>'
        f'<input type="range" min="{-REACH:g}" max="{REACH:g}" step="0.05" value="{value:g}"'
        f' data-tower="{tower}" data-own="{int(own)}" aria-label="{spoken}">'
        f"<output>{value:.2f}</output></label>"
    )


def _setting(setting: Setting, value: object) -> str:
    name = setting.name
    if setting.kind == "choice":
        options = "".join(
            f"<option{' selected' if each == value else ''}>{escape(each)}</option>"
            for each in setting.choices
        )
        field = f'<select data-setting="{name}">{options}</select>'
    elif setting.kind == "switch":
        field = f'<input type="checkbox" data-setting="{name}"{" checked" if value else ""}>'
    elif setting.kind == "share":
        return (
            f'<label class="mx-slider"><span>{name}</span><input type="range" min="0" max="1" step="0.01"'
            f' value="{value:g}" data-setting="{name}" aria-label="{name}">'
            f"<output>{value:.2f}</output></label>"
        )
    else:
        step = "1" if setting.kind == "whole" else "any"
        field = f'<input type="number" step="{step}" value="{value:g}" data-setting="{name}">'
    return f'<label class="mx-setting"><span>{name}</span>{field}</label>'
