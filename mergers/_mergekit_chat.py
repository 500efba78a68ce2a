"""The chat template of a mergekit file: a text, the name of one of mergekit's, or what most models have.

chat_template: auto        the template that most of the models have, the base first where it is a tie
chat_template: chatml      one of the templates that mergekit brings along
chat_template: "{% for message in messages %} ..."
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from studio.errors import ConfigError, unknown

AUTO = "auto"
#: Where transformers keeps a template, in the order in which it looks.
FILE, OLD, TOKENIZER = "chat_template.jinja", "chat_template.json", "tokenizer_config.json"
#: Shorter words without a brace are names.
SHORTEST = 20


def read_template(value: Any) -> str:
    """Return what a file means: `AUTO`, or the text of a template; `ConfigError` if it is neither."""
    if not isinstance(value, str):
        raise ConfigError(f"chat_template is a name or a Jinja template, not {value!r}")
    if value == AUTO:
        return value
    known = _named()
    if value in known:
        return known[value].read_text(encoding="utf-8")
    if "{" not in value or len(value) < SHORTEST:
        raise ConfigError(unknown("chat_template", value, [AUTO, *known]))
    return value


def template_of(folder: Path) -> str:
    """Return the chat template that a model comes with, or the empty string."""
    file = folder / FILE
    if file.is_file():
        return file.read_text(encoding="utf-8").strip()
    for name in (OLD, TOKENIZER):
        found = _json(folder / name).get("chat_template")
        if isinstance(found, list):  # several, by name
            named = {entry.get("name"): entry.get("template") for entry in found if isinstance(entry, dict)}
            found = named.get("default")
        if isinstance(found, str) and found.strip():
            return found.strip()
    return ""


def chosen(chat: str, models: Sequence[Path]) -> str:
    """Return the template of the output; the empty string where it keeps what the donor has."""
    if chat != AUTO:
        return chat
    found = Counter(template for folder in models if (template := template_of(folder)))
    return found.most_common(1)[0][0] if found else ""


def write_template(folder: Path, template: str) -> None:
    """Put a template into a finished output, in place of any other; nothing changes without one."""
    if not template:
        return
    (folder / OLD).unlink(missing_ok=True)
    for name in (TOKENIZER, "processor_config.json"):
        told = _json(folder / name)
        if told.pop("chat_template", None) is not None:
            text = json.dumps(told, indent=2, ensure_ascii=False)
            (folder / name).write_text(text + "\n", encoding="utf-8")
    (folder / FILE).write_text(template, encoding="utf-8")


def _named() -> dict[str, Path]:
    """Return the templates that the installed mergekit has by name; it is found, not imported."""
    spec = find_spec("mergekit")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return {
        file.stem: file
        for place in places
        for file in sorted(Path(place).glob("_data/chat_templates/*.jinja"))
    }


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
