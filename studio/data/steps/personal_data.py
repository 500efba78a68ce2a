"""Personal data in texts and transcripts, found by patterns and check digits, and redacted.

    email         name@host.domain
    phone         +49 30 1234567, (030) 123-4567, 555-123-4567: 7 to 15 digits with a +, brackets or groups
    iban          ISO 13616, with its country's length and the check of ISO 7064 (mod 97)
    card          13 to 19 digits of a card network that pass Luhn's check
    ip            IPv4 and IPv6 addresses; private and reserved ones stay, and 'version 1.2.3.4'
    birth_date    a date that follows 'born', 'birth', 'DOB', 'geboren', 'Geburtsdatum', 'née', 'né'

Names, places and addresses need a trained model and are not found: this step makes data safer, never
anonymous. What was redacted stands in the set's ``undo`` folder, or it could not be undone; remove that
folder before the set is passed on.
"""

from __future__ import annotations

import ipaddress
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from studio.data.steps._step import Bench, Edit, Outcome, change, removal
from studio.data.steps._texts import rewritten
from studio.types import Sample

KINDS = ("email", "iban", "card", "ip", "birth_date", "phone")
#: Lengths of an IBAN by country, of the registry of ISO 13616; other countries are taken at any length.
_IBAN = {
    "AD": 24, "AE": 23, "AT": 20, "BE": 16, "BG": 22, "BR": 29, "CH": 21, "CY": 28, "CZ": 24, "DE": 22,
    "DK": 18, "EE": 20, "ES": 24, "FI": 18, "FR": 27, "GB": 22, "GR": 27, "HR": 21, "HU": 28, "IE": 22,
    "IS": 26, "IT": 27, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "MC": 27, "MT": 31, "NL": 18, "NO": 15,
    "PL": 28, "PT": 25, "RO": 24, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TR": 26, "UA": 29,
}  # fmt: skip
_CARD = re.compile(r"3[0-9]|4[0-9]|5[0-9]|6[0-9]|2[2-7]")
_MONTH = r"(?:jan|feb|mar|mär|apr|may|mai|jun|jul|aug|sep|oct|okt|nov|dec|dez)[a-zé]*\.?"
_DATE = (
    r"(?:\d{1,2}[./-]\d{1,2}[./-](?:\d{4}|\d{2})|\d{4}-\d{2}-\d{2}"
    rf"|\d{{1,2}}(?:\.|st|nd|rd|th)?(?:\s+of)?\s+{_MONTH},?\s+\d{{4}}|{_MONTH}\s+\d{{1,2}}(?:st|nd|rd|th)?,?\s+\d{{4}})"
)
_PATTERNS = {
    "email": re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[^\W\d_]{2,24}(?![\w-])"),
    "iban": re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}(?![A-Za-z0-9])"),
    "card": re.compile(r"(?<![\d.,-])\d(?:[ -]?\d){12,18}(?![\d]|[.,-]\d)"),
    "ip": re.compile(
        r"(?<![\w.:])(?<!ersion )(?<!elease )"
        r"(?:\d{1,3}(?:\.\d{1,3}){3}|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*:[0-9A-Fa-f.]*)(?![\w:]|\.\d)"
    ),
    "birth_date": re.compile(
        r"\b(?:born|birth(?:day|date)?|d\.?o\.?b|geboren|geburts(?:tag|datum)|née?)\b[\s\w.:,-]{0,24}?"
        rf"({_DATE})(?!\d)",
        re.IGNORECASE,
    ),
    "phone": re.compile(
        r"(?<![\w.+/-])(?:\+\d{1,3}[ ./-]?(?:\(\d{1,4}\)[ ./-]?)?\d(?:[ ./-]?\d){5,12}"
        r"|(?<!\d )(?:\(\d{2,5}\)[ ./-]?\d(?:[ ./-]?\d){4,10}"
        r"|\d{3}[ .-]\d{3}[ .-]\d{4}|0\d{1,4}[ /-]\d(?:[ -]?\d){4,9}))(?![ .,/-]?\d|\w)"
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is looked for, and what is done about it."""

    kinds: tuple[str, ...] = field(default=KINDS, metadata={"help": "what to look for", "choices": KINDS})
    action: Literal["redact", "remove", "report"] = field(
        default="redact",
        metadata={"help": "put [EMAIL] and so on in its place, remove the row, or count only"},
    )
    extra: bool = field(default=True, metadata={"help": "look into the texts of 'extra', too"})


def run(samples: Sequence[Sample], settings: Settings, bench: Bench) -> Outcome:
    """Redact the rows that hold personal data, or remove them; the reason tells kinds and counts only."""
    bench.log.stage("personal data", len(samples), "rows")
    edits: list[Edit] = []
    total: Counter[str] = Counter()
    rows = 0
    for sample in samples:
        bench.log.advance()
        count: Counter[str] = Counter()
        new = _redacted(sample, settings, count)
        if not count:
            continue
        total, rows = total + count, rows + 1
        reason = ", ".join(f"{number} {kind}" for kind, number in sorted(count.items()))
        if settings.action == "remove":
            edits.append(removal(sample, reason))
        elif settings.action == "redact":
            edits.append(change(sample, new, reason))
    return Outcome(edits=edits, report={"rows": rows, "found": dict(sorted(total.items()))})


def redacted(text: str, kinds: Sequence[str], count: Counter[str]) -> str:
    """Return a text with [EMAIL], [IBAN] and so on in the place of what was found; ``count`` is told."""
    for kind in KINDS:
        if kind in kinds:
            text = "".join(_pieces(text, kind, count))
    return text


def _pieces(text: str, kind: str, count: Counter[str]) -> Iterator[str]:
    end = 0
    for match in _PATTERNS[kind].finditer(text):
        group = 1 if kind == "birth_date" else 0
        begin, stop = match.span(group)
        if kind == "iban":
            stop = begin + _iban(match[0])
        if stop > begin and _CHECKS.get(kind, _always)(text[begin:stop]):
            yield text[end:begin]
            yield f"[{kind.upper()}]"
            end = stop
            count[kind] += 1
    yield text[end:]


def _always(_found: str) -> bool:
    return True


def _iban(found: str) -> int:
    """Return how many characters of a match are an IBAN that passes its check; 0 for none."""
    wanted = _IBAN.get(found[:2])
    places = [at for at, letter in enumerate(found) if letter != " "]
    for length in [wanted] if wanted else range(len(places), 14, -1):
        if length > len(places):
            continue
        stop = places[length - 1] + 1
        if stop < len(found) and found[stop] != " ":
            continue
        letters = found[:stop].replace(" ", "")
        if int("".join(str(int(letter, 36)) for letter in letters[4:] + letters[:4])) % 97 == 1:
            return stop
    return 0


def luhn(found: str) -> bool:
    """Say whether digits pass Luhn's check (ISO/IEC 7812-1, annex B) and begin as those of cards do."""
    digits = [int(letter) for letter in found if letter.isdigit()]
    twice = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    right = (sum(digits[-1::-2]) + sum(twice)) % 10 == 0
    return right and len(set(digits)) > 1 and bool(_CARD.match(f"{digits[0]}{digits[1]}"))


def _public(found: str) -> bool:
    try:
        return ipaddress.ip_address(found.rstrip(".")).is_global
    except ValueError:
        return False


_CHECKS: Mapping[str, Callable[[str], bool]] = {"card": luhn, "ip": _public}


def _redacted(sample: Sample, settings: Settings, count: Counter[str]) -> Sample:
    def rewrite(text: str) -> str:
        return redacted(text, settings.kinds, count)

    new = rewritten(sample, rewrite)
    assert new is not None, "a redaction leaves its mark"
    if settings.extra and sample.extra:
        extra = _deep(sample.extra, rewrite)
        new = new if extra == sample.extra else replace(new, extra=extra)
    return new


def _deep(value: Any, rewrite: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return rewrite(value)
    if isinstance(value, Mapping):
        return {key: _deep(inner, rewrite) for key, inner in value.items()}
    return [_deep(inner, rewrite) for inner in value] if isinstance(value, list) else value
