"""Reading a chat completion's request: every part is checked, media come with it, nothing is fetched.

Pictures are ``image_url`` parts whose URL is ``data:image/...;base64,...``, sounds ``input_audio`` parts with
base64 data. They are written into a folder that goes with the request, and decoded before a model sees them.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from studio.errors import DataError, TriptychError, unknown
from studio.media import load_image, read_sound
from studio.types import Image, Part, Role, Sample, Sound, Text, Turn

MOST_TOKENS, DEFAULT_TOKENS = 4096, 256
HOTTEST = 2.0
#: What a request may say; anything else would be passed over in silence.
KNOWN = {
    "model", "messages", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature",
    "seed", "n", "user", "metadata", "top_p", "frequency_penalty", "presence_penalty", "response_format",
    "store",
}  # fmt: skip
#: Settings of which only the value that changes nothing is taken.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (1, None),
    "top_p": (1, 1.0, None),
    "frequency_penalty": (0, 0.0, None),
    "presence_penalty": (0, 0.0, None),
    "response_format": ({"type": "text"}, None),
}
_ROLES = {"developer": "system"}


@dataclass(frozen=True, kw_only=True)
class Request:
    """A checked request: which variant, the conversation, and how it is answered."""

    model: str
    sample: Sample
    stream: bool
    usage: bool
    max_new_tokens: int
    temperature: float
    seed: int

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of `studio.generate.stream`."""
        return {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "seed": self.seed,
        }


def read_request(body: Any, folder: Path) -> Request:
    """Return a request's meaning; its media are written into ``folder``.

    Raises:
        DataError: in one sentence, for whatever would not be done as asked.
    """
    if not isinstance(body, dict):
        raise DataError("the body must be a JSON object")
    for key in body:
        if key not in KNOWN:
            raise DataError(unknown("field", str(key), KNOWN))
    for key, allowed in _NEUTRAL.items():
        if key in body and body[key] not in allowed:
            raise DataError(f"{key} is {body[key]!r}; only {allowed[0]!r} is supported")
    if not isinstance(body.get("model"), str):
        raise DataError("model must name a variant; GET /v1/models lists them")
    tokens = body.get("max_completion_tokens", body.get("max_tokens"))
    options = body.get("stream_options") or {}
    return Request(
        model=body["model"],
        sample=read_messages(body.get("messages"), folder),
        stream=bool(body.get("stream", False)),
        usage=bool(isinstance(options, dict) and options.get("include_usage")),
        max_new_tokens=int(_number("max_tokens", tokens, DEFAULT_TOKENS, 1, MOST_TOKENS)),
        temperature=_number("temperature", body.get("temperature"), 0.0, 0.0, HOTTEST),
        seed=int(_number("seed", body.get("seed"), 0, 0, 2**31 - 1)),
    )


def read_messages(messages: Any, folder: Path) -> Sample:
    """Return the conversation; the last message must be the user's."""
    if not isinstance(messages, list) or not messages:
        raise DataError("messages must be a list of at least one message")
    turns = tuple(_turn(number, message, folder) for number, message in enumerate(messages))
    if turns[-1].role != "user":
        raise DataError(f"messages[{len(turns) - 1}] must be the user's, not the {turns[-1].role}'s")
    return Sample(turns=turns)


def _turn(number: int, message: Any, folder: Path) -> Turn:
    where = f"messages[{number}]"
    if not isinstance(message, dict):
        raise DataError(f"{where} must be an object with role and content")
    role = _ROLES.get(str(message.get("role")), message.get("role"))
    if role not in ("system", "user", "assistant"):
        raise DataError(f"{where}.role: {unknown('role', str(role), ('system', 'user', 'assistant'))}")
    content = message.get("content")
    if isinstance(content, str):
        parts: tuple[Part, ...] = (Text(text=content),)
    elif isinstance(content, list) and content:
        parts = tuple(_part(f"{where}.content[{at}]", part, folder) for at, part in enumerate(content))
    else:
        raise DataError(f"{where}.content must be a text or a list of parts")
    if not any(not isinstance(part, Text) or part.text.strip() for part in parts):
        raise DataError(f"{where} is empty")
    return Turn(role=cast(Role, role), parts=parts)


def _part(where: str, part: Any, folder: Path) -> Part:
    kind = part.get("type") if isinstance(part, dict) else None
    if kind == "text" and isinstance(part.get("text"), str):
        return Text(text=part["text"])
    if kind == "image_url":
        value = part.get("image_url")
        url = value.get("url") if isinstance(value, dict) else value
        if not isinstance(url, str) or not url.startswith("data:image/") or ";base64," not in url:
            raise DataError(f"{where}: pictures come as data:image/...;base64,...; nothing is fetched")
        path = _write(where, url.partition(";base64,")[2], folder)
        return Image(path=_checked(where, path, load_image))
    if kind == "input_audio":
        value = part.get("input_audio")
        data = value.get("data") if isinstance(value, dict) else None
        if not isinstance(data, str):
            raise DataError(f"{where}: input_audio needs data, the sound in base64")
        return Sound(path=_checked(where, _write(where, data, folder), read_sound))
    raise DataError(f"{where}: {unknown('part', str(kind), ('text', 'image_url', 'input_audio'))}")


def _write(where: str, data: str, folder: Path) -> Path:
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise DataError(f"{where}: the medium is not valid base64") from None
    path = folder / f"{len(list(folder.iterdir()))}.bin"
    path.write_bytes(content)
    return path


def _checked(where: str, path: Path, decode: Any) -> Path:
    """Return the path of a medium that decodes; the sentence of one that does not names no path."""
    try:
        decode(path)
    except TriptychError as error:
        words = str(error)
        for spelling in (f"picture '{path}'", f"sound '{path}'", f"'{path}'", str(path)):
            words = words.replace(spelling, "the medium")
        raise DataError(f"{where}: {words}") from None
    return path


def _number(name: str, value: Any, default: float, least: float, most: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise DataError(f"{name} is {value!r}; it must be a number from {least:g} to {most:g}")
    return value


def choice(text: str | None, reason: str | None, *, delta: bool = False) -> dict[str, Any]:
    """Return a choice of an answer, or of a piece of one."""
    said: Mapping[str, Any] = {"role": "assistant", "content": text} if text is not None else {}
    return {
        "index": 0,
        "delta" if delta else "message": dict(said),
        "finish_reason": reason,
        "logprobs": None,
    }


def names(models: Sequence[str], created: int) -> dict[str, Any]:
    """Return the list of models."""
    each = [{"id": name, "object": "model", "created": created, "owned_by": "triptych"} for name in models]
    return {"object": "list", "data": each}
