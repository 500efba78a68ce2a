from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from studio import plugins
from studio.cache import Kept
from studio.config import help_text, settings
from studio.data.steps._step import Bench, Outcome, read_steps
from studio.data.steps.balance import cramers_v
from studio.data.steps.personal_data import KINDS, luhn, redacted
from studio.errors import TriptychError
from studio.log import QuietLog
from studio.media import save_sound
from studio.types import Image, Part, Sample, Sound, Text, Turn

Do = Callable[..., Outcome]


@pytest.fixture
def do(tmp_path: Path) -> Do:
    """Return a function that runs one step on rows."""

    def run(step: Any, rows: list[Sample], seed: int = 0) -> Outcome:
        [made] = read_steps([step])
        return made.run(rows, made.settings, Bench(log=QuietLog(), kept=Kept(tmp_path / "cache"), seed=seed))

    return run


def rows_of(*said: tuple[str, str], groups: list[dict[str, str]] | None = None) -> list[Sample]:
    return [
        Sample(
            turns=(
                Turn(role="user", parts=(Text(text=asked),)),
                Turn(role="assistant", parts=(Text(text=answer),)),
            ),
            file=Path("train.jsonl"),
            line=number,
            groups=groups[number - 1] if groups else {},
        )
        for number, (asked, answer) in enumerate(said, 1)
    ]


def with_media(*parts: Part) -> list[Sample]:
    answer = Turn(role="assistant", parts=(Text(text="It."),))
    return [
        Sample(turns=(Turn(role="user", parts=(part,)), answer), file=Path("train.jsonl"), line=number)
        for number, part in enumerate(parts, 1)
    ]


def lines(outcome: Outcome) -> list[int]:
    return [edit.at[1] for edit in outcome.edits]


@pytest.mark.parametrize("name", plugins.names("steps"))
def test_every_step_says_what_it_does_and_what_its_settings_mean(name: str) -> None:
    module = plugins.load("steps", name)
    assert plugins.summary("steps", name)
    assert all(len(setting.help) > 4 for setting in settings(module.Settings))
    assert help_text(module.Settings)
    assert module.run.__doc__


def test_normal_texts_stay_and_others_are_changed_once(do: Do) -> None:
    rows = rows_of(
        ("Was ist das?", "Ein schöner Teppich.\n\n    eingerückt"),
        ("Was  ist\u00a0das? ", "Ein scho\u0308ner Teppich."),
        ("Was\u0007 ist\u202e das?\r\n", "Ein Teppich."),
        ("\u200a ", "Nichts."),
    )
    outcome = do("normalise", rows)
    assert lines(outcome) == [2, 3, 4]
    second, third, fourth = outcome.edits
    assert second.new is not None
    assert [turn.text for turn in second.new.turns] == ["Was ist das?", "Ein schöner Teppich."]
    assert third.new is not None
    assert third.new.turns[0].text == "Was ist das?"
    assert (second.reason, third.reason) == (
        "text that is not NFC, white space",
        "control characters, white space",
    )
    assert fourth.new is None
    again = [edit.new for edit in outcome.edits if edit.new is not None]
    assert not do("normalise", again).edits


def test_white_space_between_the_parts_of_a_turn_stays(do: Do) -> None:
    turn = Turn(
        role="user", parts=(Text(text="A picture: "), Image(path=Path("a.png")), Text(text=" What?  "))
    )
    [sample] = rows_of(("x", "y"))
    row = Sample(turns=(turn, sample.turns[1]), file=sample.file, line=1)
    [edit] = do("normalise", [row]).edits
    assert edit.new is not None
    assert [part.text for part in edit.new.turns[0].parts if isinstance(part, Text)] == [
        "A picture: ",
        " What?",
    ]


def test_rows_outside_of_a_length_go(do: Do) -> None:
    rows = rows_of(("Why?", "Because it is so."), ("Why?", " "), ("Why?", "So " * 40))
    outcome = do({"length": {"max_words": 20}}, rows)
    assert lines(outcome) == [2, 3]
    assert "40 words in the answer; at most 20 are wanted" in outcome.edits[1].reason


def test_rows_in_another_language_go_and_short_ones_are_not_judged(do: Do) -> None:
    rows = rows_of(
        ("What do you see in this picture?", "There is a red carpet with a pattern of flowers."),
        ("Was siehst du auf diesem Bild?", "Da ist ein roter Teppich mit einem Muster aus Blumen."),
        ("Que voyez-vous sur cette image ?", "Il y a un tapis rouge avec un motif de fleurs."),
        ("Ja?", "Nein."),
    )
    outcome = do({"language": {"keep": ["en", "de"]}}, rows)
    assert lines(outcome) == [3]
    assert outcome.report["languages"] == {"en": 1, "de": 1, "fr": 1, "not judged": 1}


def test_rows_that_say_the_same_go(do: Do) -> None:
    rows = rows_of(("Why?", "So."), ("Why?", "Thus."), ("Why?", "So."), ("why", "so!"))
    assert lines(do("exact_duplicates", rows)) == [3]
    assert lines(do({"exact_duplicates": {"strict": False}}, rows)) == [3, 4]


def pictures(folder: Path) -> dict[str, Image]:
    from PIL import Image as Pictures
    from PIL import ImageFilter

    draw = np.random.default_rng(0)
    smooth = Pictures.fromarray(draw.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((256, 192))
    good = Pictures.blend(
        smooth, Pictures.fromarray(draw.integers(0, 256, (192, 256, 3), dtype=np.uint8)), 0.2
    )
    made = {
        "good": good,
        "blurred": smooth.filter(ImageFilter.GaussianBlur(6)),
        "dark": good.point(lambda value: value // 6),
        "bright": good.point(lambda value: 238 if value < 128 else 255),
        "plain": Pictures.new("RGB", (128, 128), (90, 120, 60)),
        "long": good.resize((400, 40)),
        "tiny": good.resize((8, 8)),
        "small": good.resize((32, 32)),
    }
    for name, picture in made.items():
        picture.save(folder / f"{name}.png")
    return {name: Image(path=folder / f"{name}.png") for name in made}


def test_poor_pictures_go_and_good_ones_stay(do: Do, tmp_path: Path) -> None:
    made = pictures(tmp_path)
    outcome = do("image_quality", with_media(*made.values()))
    why = {list(made)[edit.at[1] - 1]: edit.reason for edit in outcome.edits}
    assert set(why) == {"blurred", "dark", "bright", "plain", "long", "tiny"}
    for name, word in (("blurred", "blurred"), ("dark", "dark"), ("bright", "bright"), ("plain", "one tone"),
                       ("long", "10.0 times"), ("tiny", "8 x 8")):  # fmt: skip
        assert word in why[name]


def sounds(folder: Path) -> dict[str, Sound]:
    draw = np.random.default_rng(0)
    time = np.arange(32000) / 16000
    voice = (0.5 * np.sin(2 * np.pi * 220 * time) * (np.sin(2 * np.pi * 2 * time) > 0)).astype(np.float32)
    hiss = draw.normal(0, 1, len(voice)).astype(np.float32)
    made = {
        "good": voice + 0.0005 * hiss,
        "quiet": 0.004 * voice,
        "cut": np.clip(4 * voice, -1, 1),
        "noisy": voice + 0.2 * hiss,
        "empty": np.concatenate([voice[:2000], np.zeros(60000, np.float32)]),
        "short": voice[:800],
        "loud": voice * 1.99,
    }
    for name, wave in made.items():
        save_sound(folder / f"{name}.wav", wave, 16000)
    return {name: Sound(path=folder / f"{name}.wav") for name in made}


def test_poor_sounds_go_and_good_ones_stay(do: Do, tmp_path: Path) -> None:
    made = sounds(tmp_path)
    outcome = do({"sound_quality": {"snr": 15}}, with_media(*made.values()))
    why = {list(made)[edit.at[1] - 1]: edit.reason for edit in outcome.edits}
    assert set(why) == {"quiet", "cut", "noisy", "empty", "short"}
    for name, word in (("quiet", "quiet"), ("cut", "cut off"), ("noisy", "noisy"), ("empty", "silence")):
        assert word in why[name]


def test_media_that_do_not_decode_are_counted_and_stay(do: Do, tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"no picture")
    outcome = do(
        "image_quality", with_media(Image(path=tmp_path / "bad.png"), Image(path=tmp_path / "none.png"))
    )
    assert not outcome.edits
    assert outcome.report["not decoded"] == 2


def test_wrong_labels_are_found_from_scores_and_others_are_not(do: Do, tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    kinds, wrong, rows, scores = ("cat", "cow", "dog"), set(range(4, 120, 10)), [], []
    for line in range(1, 121):
        true = line % 3
        rows.append(("What?", kinds[(true + 1) % 3] if line in wrong else kinds[true]))
        share = draw.dirichlet([1, 1, 1]) * 0.3
        share[true] += 0.7
        scores.append({"row": line, "scores": dict(zip(kinds, share.tolist(), strict=True))})
    file = tmp_path / "scores.jsonl"
    file.write_text("\n".join(map(json.dumps, scores)))
    outcome = do({"label_errors": {"scores": str(file)}}, rows_of(*rows))
    assert set(lines(outcome)) == wrong
    assert "the model 'cow'" in {edit.at[1]: edit.reason for edit in outcome.edits}[4]
    file.write_text('{"row": 1, "scores": {"cat": "much"}}')
    with pytest.raises(TriptychError, match=r"scores\.jsonl:1: this is no line of scores"):
        do({"label_errors": {"scores": str(file)}}, rows_of(*rows))


def test_a_model_scores_the_answers_of_a_row(do: Do, tiny: Callable[[str], Path]) -> None:
    rows = rows_of(*[("red or blue?", ("red", "blue")[at % 2]) for at in range(6)])
    step = {"label_errors": {"model": str(tiny("qwen_omni")), "action": "report"}}
    outcome = do(step, rows)
    assert outcome.report["scored"] == 6
    assert outcome.report["labels"] == {"red": 3, "blue": 3}
    assert not outcome.edits
    assert do(step, rows) == outcome


PERSONAL = {
    "write to anna.maier+x@mail.example.org, please": "write to [EMAIL], please",
    "pay DE89 3704 0044 0532 0130 00 soon": "pay [IBAN] soon",
    "GB82WEST12345698765432": "[IBAN]",
    "my card 4111 1111 1111 1111.": "my card [CARD].",
    "from 8.8.8.8 and 2001:4860:4860::8888 again": "from [IP] and [IP] again",
    "call +49 30 1234567 or (030) 123-4567 or 555-123-4567": "call [PHONE] or [PHONE] or [PHONE]",
    "She was born on 12.03.1984 in Graz": "She was born on [BIRTH_DATE] in Graz",
    "DOB: 1984-03-12": "DOB: [BIRTH_DATE]",
    "born 12 March 1984": "born [BIRTH_DATE]",
}
NOT_PERSONAL = [
    "pay DE89 3704 0044 0532 0130 01 soon",
    "order 4111 1111 1111 1112",
    "from 127.0.0.1, 192.168.1.7 and 999.1.1.1",
    "version 1.2.3.4 of 10:30:45",
    "the match of 12.03.2024 ended 3-2",
    "3.14159265358979 and 1,000,000,000 and 2026-11-22",
    "a@b, @name, C++::std::vector",
    "0000 0000 0000 0000",
    "ratio 0.97-1.03 of 1200-1500 pieces",
]


@pytest.mark.parametrize(("text", "clean"), PERSONAL.items())
def test_personal_data_is_redacted(text: str, clean: str) -> None:
    assert redacted(text, KINDS, Counter()) == clean


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_what_only_looks_like_personal_data_stays(text: str) -> None:
    assert redacted(text, KINDS, Counter()) == text


def test_reasons_never_repeat_what_was_redacted(do: Do) -> None:
    rows = rows_of(("Who?", "anna@example.org, 4111111111111111"), ("Who?", "Nobody."))
    [edit] = do("personal_data", rows).edits
    assert edit.reason == "1 card, 1 email"
    assert edit.new is not None
    assert edit.new.answer == "[EMAIL], [CARD]"
    assert lines(do({"personal_data": {"action": "remove", "kinds": ["card"]}}, rows)) == [1]


def test_luhn_knows_a_changed_digit() -> None:
    good = "378282246310005"
    assert luhn(good)
    assert not any(luhn(good[:8] + str((int(good[8]) + d) % 10) + good[9:]) for d in range(1, 10))


def grouped(table: dict[tuple[str, str], int]) -> list[Sample]:
    cells = [cell for cell, count in table.items() for _ in range(count)]
    return rows_of(*[("Who?", label) for _, label in cells], groups=[{"accent": group} for group, _ in cells])


def test_cramers_v_agrees_with_the_formula_and_knows_independence() -> None:
    assert cramers_v(np.array([[50.0, 0.0], [0.0, 50.0]])) == pytest.approx(1, abs=1e-9)
    assert cramers_v(np.array([[25.0, 25.0], [25.0, 25.0]])) == 0
    assert cramers_v(np.array([[30.0, 20.0], [20.0, 30.0]])) == pytest.approx(
        ((0.04 - 1 / 99) / (2 - 1 / 99 - 1)) ** 0.5  # Bergsma's two corrections, by hand
    )


def test_balance_tells_counts_and_an_interval_that_holds_the_figure(do: Do) -> None:
    rows = grouped({("a", "yes"): 60, ("a", "no"): 20, ("b", "yes"): 10, ("b", "no"): 30})
    report = do({"balance": {"group": "accent"}}, rows).report["train.jsonl"]
    assert report["counts"] == {"a": 80, "b": 40}
    assert report["labels"] == {"a": {"no": 20, "yes": 60}, "b": {"no": 30, "yes": 10}}
    v = report["cramers_v"]
    assert 0.2 < v["low"] < v["value"] < v["high"] < 0.7
    again = do({"balance": {"group": "accent"}}, rows).report["train.jsonl"]
    other = do({"balance": {"group": "accent"}}, rows, seed=1).report["train.jsonl"]
    assert again["cramers_v"] == v != other["cramers_v"]


def test_weights_make_group_and_label_independent(do: Do) -> None:
    rows = grouped({("a", "yes"): 60, ("a", "no"): 20, ("b", "yes"): 10, ("b", "no"): 30})
    outcome = do({"balance": {"group": "accent", "mitigate": "weight"}}, rows)
    table = np.zeros((2, 2))
    for edit in outcome.edits:
        assert edit.new is not None
        table["ab".index(edit.new.groups["accent"]), ("yes", "no").index(edit.new.answer)] += edit.new.weight
    assert table.sum() == pytest.approx(len(rows), rel=1e-5)
    assert cramers_v(table) == pytest.approx(0, abs=1e-3)


def test_a_draw_leaves_each_label_as_often_in_every_group(do: Do) -> None:
    rows = grouped({("a", "yes"): 30, ("a", "no"): 9, ("b", "yes"): 10, ("b", "no"): 20, ("b", "maybe"): 3})
    step = {"balance": {"group": "accent", "mitigate": "sample"}}
    outcome = do(step, rows)
    left = [row for row in rows if row.line not in lines(outcome)]
    count = {cell: sum((row.groups["accent"], row.answer) == cell for row in left)
             for cell in (("a", "yes"), ("b", "yes"), ("a", "no"), ("b", "no"), ("b", "maybe"))}  # fmt: skip
    assert list(count.values()) == [10, 10, 9, 9, 3]
    assert outcome.report["train.jsonl"]["left alone"] == ["maybe"]
    assert lines(do(step, rows)) == lines(outcome) != lines(do(step, rows, seed=1))


@pytest.mark.parametrize(
    ("steps", "sentence"),
    [
        ([], "at least one step"),
        (["normalize"], "did you mean 'normalise'"),
        ([{"length": {"max_word": 3}}], "did you mean 'max_words'"),
        ([{"text_duplicates": {"similarity": 7}}], "similarity must be from 0.3 to 1, not 7"),
        ([{"language": {"keep": ["english"]}}], "unknown language 'english'"),
        (["label_errors"], "either model or scores"),
        ([3], "a step is a name"),
        ([{"normalise": {}, "length": {}}], "one name with its settings"),
    ],
)
def test_wrong_steps_are_refused_with_one_sentence(steps: list[Any], sentence: str) -> None:
    with pytest.raises(TriptychError, match=sentence):
        read_steps(steps)


def test_all_wrong_steps_are_told_at_once() -> None:
    with pytest.raises(TriptychError, match=r"(?s)steps\[1\].*steps\[3\]"):
        read_steps(["one", "normalise", "three"])
