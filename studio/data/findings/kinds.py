"""Every kind of finding: its name, how severe it is, what it means and what mends it.

An error trains wrong or not at all, and stops a run before step 0. A warning is taken care of while loading,
or is a matter of judgement. `--fix` mends what says so in its last column.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["error", "warning"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A row of the table below; ``repair`` is what a repaired copy does about it ("" for nothing)."""

    name: str
    severity: Severity
    means: str
    fix: str
    repair: Literal["", "drop", "rewrite"] = ""


def _error(name: str, means: str, fix: str) -> Kind:
    return Kind(name=name, severity="error", means=means, fix=fix, repair="drop")


def _warning(name: str, means: str, fix: str, repair: Literal["", "drop", "rewrite"] = "") -> Kind:
    return Kind(name=name, severity="warning", means=means, fix=fix, repair=repair)


# Rows.
ROW = _error("row", "the line is no row of messages", "write the row as the schema says")
PATH = _error("path", "a medium is named by a path that leaves the data folder", "move the medium inside")
EMPTY_ANSWER = _error("empty_answer", "an answer that is learned has no text", "write what it should say")
NO_ANSWER = _error("no_answer", "nothing in the row is learned", "end the row with the wanted answer")
TAGS = _error(
    "tags", "the text holds media tags that no medium belongs to", "import the file: triptych convert"
)
DUPLICATE_ID = Kind(
    name="duplicate_id",
    severity="error",
    means="two rows have the same id",
    fix="give each row an id of its own",
    repair="rewrite",
)
DUPLICATE_ROW = _warning(
    "duplicate_row", "the same text and media stand in an earlier row", "keep one", "drop"
)
LEAK = _error("leak", "the same text and media stand in another split", "keep it in one of the splits")
LEAKED_MEDIUM = _warning(
    "leaked_medium", "another split uses the same medium", "keep it in one of the splits"
)
UNKNOWN_GROUP = _warning("unknown_group", "a group has no value where other rows have one", "name the group")
RARE_GROUP = _warning("rare_group", "hardly any row has this value of a group", "collect more, or correct it")

# Files.
MISSING = _error("missing", "the medium does not exist", "put the file there, or correct its path")
NOT_A_FILE = _error("not_a_file", "the medium is a folder or a device", "name a file")
EMPTY_FILE = _error("empty_file", "the medium has no bytes", "copy the file again")
TRUNCATED = _error("truncated", "the medium does not decode to its end", "copy the file again")
WRONG_TYPE = _error("wrong_type", "the file is not of the kind that the row says", "name a file of that kind")
BOMB = _error("bomb", "the medium claims more than is ever decoded", "make it smaller, or leave it out")
EXTENSION = _warning("extension", "the file's name ends as another format does", "rename it", "rewrite")

# Pictures.
CMYK = _warning("cmyk", "the picture is stored for print, not for the screen", "save it as RGB", "rewrite")
ROTATION = _warning("rotation", "the picture lies on its side but for a note", "turn its pixels", "rewrite")
ANIMATION = _warning("animation", "the picture moves; only its first frame is seen", "save it", "rewrite")
BLANK = _warning("blank", "the picture has a single colour", "look whether it is the right one")
TINY = _warning("tiny", "the picture has a side below 8 pixels", "look whether it is the right one")

# Sounds.
CHANNELS = _warning("channels", "the sound has several channels; they are averaged", "mix it down", "rewrite")
RATE = _warning("rate", "the sound has another rate than the others or the model", "resample it", "rewrite")
CLIPPING = _warning("clipping", "the sound was recorded too loud", "record it again with less gain")
SILENCE = _warning("silence", "nothing can be heard", "look whether it is the right one")

# With a model.
MODALITY = _error("modality", "the model does not take this kind of medium", "choose a model that does")
LONG_SOUND = _error("long_sound", "the sound exceeds the model's window", "cut it, or set length.audio")
LONG_ROW = _error(
    "long_row", "the row has more tokens than the model takes", "shorten it, or set length.policy"
)
MEDIA_TOKENS = Kind(
    name="media_tokens",
    severity="error",
    means="the text has other media tokens than the model expects",
    fix="take the processor that belongs to the model",
)
REFUSED = _error("refused", "the model's processor refuses the row", "see the message")

KINDS: dict[str, Kind] = {kind.name: kind for kind in list(globals().values()) if isinstance(kind, Kind)}
