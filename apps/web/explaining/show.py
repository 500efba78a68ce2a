"""An explanation as HTML: every name, answer and word is escaped; what colours show stands in words too."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from apps.web.panels import problem_html, visible

if TYPE_CHECKING:
    from studio.explain import Explanation
    from studio.explain_units import Unit
    from studio.types import Sample, Sound

ASK = (
    '<div class="tp-why-ask" role="group" aria-label="Explain an answer" hidden><h3>Explain an answer</h3>'
    '<select aria-label="Answer to explain"></select>'
    '<select aria-label="By itself, or rather than another answer"></select>'
    '<button type="button">Explain</button><p class="tp-live" role="status"></p></div>'
)
"""The question for an explanation; ``asked.js`` fills its fields from the board, when answers are there."""
_WAVE = 160  # points of a sound's outline
_LISTED = 12  # weights that the table lists


def running_html(title: str, share: float, waiting: bool = False) -> str:
    """Return the progress of an explanation, or that it waits for another one."""
    words = "Another explanation is being made; this one comes next." if waiting else f"Explaining {title}."
    bar = "" if waiting else f'<progress aria-label="Explaining" max="1" value="{share:.2f}"></progress>'
    return (
        f'<section class="tp-why" data-running data-spoken="{escape(words)}">'
        f"<h4>{escape(words)}</h4>{bar}</section>"
    )


def stopped_html(problem: str) -> str:
    """Return why there is no explanation."""
    return f'<section class="tp-why" data-spoken="">{problem_html(problem)}</section>' if problem else ""


def explanation_html(found: Explanation, sample: Sample, title: str, against: str = "") -> str:
    """Return an explanation; ``title`` and ``against`` are what the page calls the variants."""
    from studio.explain_picture import strength
    from studio.explain_words import parts, sentences
    from studio.types import Image, Sound

    told = sentences(found, title, against)
    shares = strength(found)
    drawn = []
    for key, places in parts(found).items():
        part = sample.prompt[key[1]].parts[key[2]]
        units, own = [found.units[at] for at in places], [shares[at] for at in places]
        if isinstance(part, Image):
            drawn.append(_picture(part, units, own))
        elif isinstance(part, Sound):
            drawn.append(_sound(part, units, own))
        else:
            drawn.append(_words(units, own))
    rather = f", rather than {escape(against)}" if against else ""
    heading = f"Why {escape(title)} says \N{LEFT DOUBLE QUOTATION MARK}{escape(visible(found.answer))}"
    heading += f"\N{RIGHT DOUBLE QUOTATION MARK}{rather}"
    spoken = escape(" ".join(["The explanation is there.", *told[1:]]))
    return (
        f'<section class="tp-why" data-spoken="{spoken}"><h4>{heading}</h4>'
        f"<ul>{''.join(f'<li>{escape(sentence)}</li>' for sentence in told)}</ul>"
        f'<div class="tp-why-parts">{"".join(drawn)}</div>'
        '<p class="tp-why-key"><span>against it</span><i aria-hidden="true"></i><span>for it</span></p>'
        f"{_table(found)}</section>"
    )


def _picture(part: object, units: Sequence[Unit], shares: Sequence[float]) -> str:
    from studio.explain_picture import overlay, png

    data = b64encode(png(overlay(part, units, shares, 360))).decode()  # type: ignore[arg-type]
    return (
        '<figure class="tp-why-picture"><figcaption>Picture</figcaption>'
        f'<img src="data:image/png;base64,{data}" alt="The picture in grey; what counts is coloured, as the '
        'list above says in words."></figure>'
    )


def _sound(part: Sound, units: Sequence[Unit], shares: Sequence[float]) -> str:
    from studio.explain_picture import outline

    end = units[-1].place[1] or 1.0
    bars = "".join(
        f'<rect x="{100 * unit.place[0] / end:.2f}" y="0" height="100" '
        f'width="{100 * (unit.place[1] - unit.place[0]) / end:.2f}" '
        f'fill="var(--tp-{"for" if share > 0 else "against"})" fill-opacity="{0.6 * abs(share):.3f}"/>'
        for unit, share in zip(units, shares, strict=True)
    )
    step = 100 / _WAVE
    wave = "".join(
        f"M{(at + 0.5) * step:.2f} {50 - 46 * loud:.1f}V{50 + 46 * loud:.1f}"
        for at, loud in enumerate(outline(part, _WAVE))
    )
    return (
        f"<figure><figcaption>Recording, 0 to {end:.1f} seconds</figcaption>"
        '<svg viewBox="0 0 100 100" preserveAspectRatio="none" role="img" aria-label="The recording along '
        'time; what counts is coloured, as the list above says in words.">'
        f'{bars}<path class="tp-why-wave" d="{wave}"/></svg></figure>'
    )


def _words(units: Sequence[Unit], shares: Sequence[float]) -> str:
    said = " ".join(
        f'<span style="--tp-side: var(--tp-{"for" if share > 0 else "against"}); '
        f'--tp-share: {60 * abs(share):.0f}%">{escape(visible(unit.text))}</span>'
        for unit, share in zip(units, shares, strict=True)
    )
    return f'<figure><figcaption>Words</figcaption><p class="tp-why-said">{said}</p></figure>'


def _table(found: Explanation) -> str:
    """Return the heaviest weights as a table, with how they came about."""
    what = {"region": "picture", "span": "recording", "word": "word"}
    ranked = sorted(range(len(found.units)), key=lambda at: -abs(found.weights[at]))[:_LISTED]
    rows = "".join(
        f'<tr><th scope="row">{what[found.units[at].kind]}: {escape(visible(found.units[at].name))}</th>'
        f"<td>{found.weights[at]:+.2f}{_error(found, at)}</td></tr>"
        for at in ranked
    )
    orders = f"{found.rounds} order{'' if found.rounds == 1 else 's'}"
    how = (
        f"Shapley values in nats of log p, from {found.passes} forward passes over {orders} of "
        f"{len(found.units)} parts; they add up to {found.value - found.empty:.2f} ({found.delta:+.3f})."
    )
    return f"<details><summary>Weights</summary><p>{how}</p><table><tbody>{rows}</tbody></table></details>"


def _error(found: Explanation, at: int) -> str:
    return f" \N{PLUS-MINUS SIGN}{found.errors[at]:.2f}" if found.errors else ""
