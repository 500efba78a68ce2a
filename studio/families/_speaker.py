"""A processor whose chat template is rendered in a family's own way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Speaker:
    """Stands for ``processor`` where a conversation is rendered: ``render(processor, messages, **settings)``.

    For processors whose own call needs another library, or templates that want messages of another form.
    """

    processor: Any
    render: Callable[..., str]

    @property
    def tokenizer(self) -> Any:
        """The processor's tokenizer."""
        return self.processor.tokenizer

    @property
    def chat_template(self) -> str | None:
        """The processor's chat template."""
        found: str | None = self.processor.chat_template
        return found

    def apply_chat_template(self, messages: Any, **settings: Any) -> str:
        """Return the conversation as text."""
        return self.render(self.processor, messages, **settings)
