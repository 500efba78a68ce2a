"""The engine as an HTTP service that speaks OpenAI's protocol of chat completions: one model a variant."""

from apps.api.server import build, serve

__all__ = ["build", "serve"]
