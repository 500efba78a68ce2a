"""The results as HTML: tables that read aloud, with bars and heat maps over them; every name is escaped."""

from __future__ import annotations

from html import escape

from studio.chart import Axis, Chart, Line, drawing, number
from studio.heatmap import HeatMap, figure, plain_table
from studio.ranking import Ranking
from studio.results import Results, verdict, won_share

NOTHING = (
    '<div class="tp-card"><h2>No votes yet</h2><p>Votes are given on the pages Compare and Question sets; '
    "what they say appears here.</p></div>"
)


def results_html(found: Results) -> str:
    """Return the whole page below its filters."""
    if not found.ranking.standings:
        return NOTHING
    told = f"{_count(found.ranking.votes, 'vote')} by {_count(len(found.raters), 'rater')}"
    left = f", {_count(found.flagged, 'flagged verdict')} left out" if found.flagged else ""
    parts = [
        f'<section><h2 class="tp-finding">{escape(verdict(found.ranking))}</h2>'
        f'<p class="tp-said">{told} on {len(found.ranking.standings)} variants{left}.</p>',
        ranking_html(found.ranking),
        "</section><div class='tp-maps'>",
        figure(win_matrix(found.ranking)),
        *map(figure, by_part(found)),
        "</div><section><h2>Can these votes be trusted?</h2><div class='tp-trust tp-maps'>",
        drawing(stability_chart(found)) if found.stability else "",
        f'<dl class="tp-facts">{_trust(found)}</dl></div></section>',
        raters_html(found),
    ]
    return f'<div class="tp-results">{"".join(parts)}</div>'


def ranking_html(ranking: Ranking) -> str:
    """Return the standings, each with a bar for its interval, sorted by the lower end."""
    ends = [end for one in ranking.standings for end in (one.low, one.high)]
    axis = Axis.over(iter([*ends, 0.0]), log=False)
    ticks = "".join(f'<i style="--at:{axis.place(tick):.2%}">{number(tick)}</i>' for tick in axis.ticks(4))
    rows = []
    for place, one in enumerate(ranking.standings, 1):
        enough = (
            "enough votes"
            if not one.more
            else f"not enough votes: about {one.more:,} more".replace(",", "\u202f")
        )
        bar = (
            f'<div class="tp-span" aria-hidden="true" style="--low:{axis.place(one.low):.2%};'
            f"--high:{axis.place(one.high):.2%};--at:{axis.place(one.score):.2%};"
            f'--zero:{axis.place(0.0):.2%}"><b></b><i></i></div>'
        )
        rows.append(
            f'<tr><td class="tp-rank">{place}</td>'
            f'<th scope="row">{escape(one.variant)}<small>{enough}</small></th>'
            f"<td>{bar}</td><td>{one.score:+z.0f}</td><td>{one.low:+z.0f} to {one.high:+z.0f}</td>"
            f'<td>{one.votes}</td><td class="tp-more">{one.wins}</td><td class="tp-more">{one.ties}</td>'
            f'<td class="tp-more">{one.losses}</td></tr>'
        )
    head = (
        '<th scope="col"><span class="tp-live">place</span></th><th scope="col">Variant</th>'
        '<th scope="col"><span class="tp-live">interval as a bar</span>'
        f'<div class="tp-axis" aria-hidden="true">{ticks}</div></th><th scope="col">Elo</th>'
        '<th scope="col">95 % interval</th><th scope="col">Votes</th>'
        '<th scope="col" class="tp-more">Won</th><th scope="col" class="tp-more">Tied</th>'
        '<th scope="col" class="tp-more">Lost</th>'
    )
    caption = "Bradley-Terry scores in Elo, the mean of all is 0, sorted by the lower end of the interval"
    return (
        f'<table class="tp-ranking"><caption>{caption}</caption><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def win_matrix(ranking: Ranking) -> HeatMap:
    """Return the share of comparisons that the row won against the column, in percent."""
    order = ranking.standings
    shares = [[None if a is b else won_share(ranking, a, b) for b in order] for a in order]
    return HeatMap(
        title="Who beats whom",
        note="percent of comparisons that the row won against the column, ties as halves",
        rows=[one.variant for one in order],
        columns=[one.variant for one in order],
        values=[[None if share is None else 100 * share for share in row] for row in shares],
        middle=50,
        reach=50,
        form="{:.0f}",
    )


def by_part(found: Results) -> list[HeatMap]:
    """Return the scores by domain and by group of raters, where there are several."""
    maps = []
    for title, parts in (("By domain", found.domains), ("By group of raters", found.groups)):
        if len(parts) < 2:
            continue
        names = [one.variant for one in found.ranking.standings]
        scores = {
            part: {one.variant: one.score for one in ranked.standings} for part, ranked in parts.items()
        }
        reach = max((abs(score) for of in scores.values() for score in of.values()), default=1.0)
        maps.append(
            HeatMap(
                title=title,
                note="Elo within each column; the intervals are in the CSV file",
                rows=names,
                columns=list(parts),
                values=[[scores[part].get(name) for part in parts] for name in names],
                reach=max(reach, 50.0),
                form="{:+z.0f}",
            )
        )
    return maps


def stability_chart(found: Results) -> Chart:
    """Return how often the ranking stays as it is without some of the votes."""
    share = [100 * one.left_out / found.ranking.votes for one in found.stability]
    kept = {
        "first place": [one.first for one in found.stability],
        "whole order": [one.order for one in found.stability],
    }
    lines = [
        Line(name=name, points=[(0.0, 100.0), *zip(share, [100 * value for value in values], strict=True)])
        for name, values in kept.items()
    ]
    lines.append(Line(name="none", points=[(0.0, 0.0), (max(share), 0.0)], faint=True, colour=5))
    return Chart(
        title="When votes are left out",
        note="percent of 1,000 refits, each without other votes, that keep it",
        x="percent of the votes left out",
        y="percent",
        lines=lines,
    )


def raters_html(found: Results) -> str:
    """Return the raters' records, those who stand out first."""
    rows = [
        (
            one.rater,
            one.group or "-",
            str(one.votes),
            f"{one.same} of {one.repeats}" if one.repeats else "-",
            f"{one.usual} of {one.decided}, {one.expected:.0f} expected" if one.decided else "-",
            one.doubt or "-",
        )
        for one in sorted(found.raters, key=lambda one: (not one.doubt, one.rater))
    ]
    if not rows:
        return ""
    head = ("Rater", "Group", "Votes", "Same when asked again", "Sided with the others", "Stands out")
    table = plain_table(head, rows)
    return f"<details><summary>{_count(len(rows), 'rater')}</summary>{table}</details>"


def _trust(found: Results) -> str:
    facts = []
    if found.agreement:
        alpha, low, high, questions = found.agreement
        facts.append(
            (
                "Agreement of raters",
                f"{alpha:.2f}",
                f"Krippendorff's alpha, {low:.2f} to {high:.2f}, {questions} questions",
            )
        )
    else:
        facts.append(("Agreement of raters", "-", "two questions judged by two raters each are needed"))
    same, repeats = found.repeats
    facts.append(
        ("Same verdict when asked again", f"{same / repeats:.0%}", f"{same} of {repeats} repeats")
        if repeats
        else ("Same verdict when asked again", "-", "no question was asked again")
    )
    for side in found.sides:
        if side.shown == 2:
            fair = side.low <= 0.5 <= side.high
            words = "no sign of a preferred side" if fair else "raters prefer a side"
            told = f"{side.low:.0%} to {side.high:.0%} of {side.decided}: {words}"
            facts.append(("Left answer won", f"{side.share:.0%}", told))
    doubted = [one.rater for one in found.raters if one.doubt]
    facts.append(
        (
            "Raters who stand out",
            str(len(doubted)),
            ", ".join(doubted) or "none, by their repeats and by the others' taste",
        )
    )
    return "".join(
        f"<div><dt>{escape(name)}</dt><dd><b>{escape(value)}</b><span>{escape(note)}</span></dd></div>"
        for name, value, note in facts
    )


def _count(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}".replace(",", "\u202f")
