"""What lmms-eval is told of us when it starts (entry point ``lmms_eval.models``)."""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """Return the names of our two classes; neither of them is imported before it is asked for."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="triptych",
        simple_class_path="apps.lmms.model.Simple",
        chat_class_path="apps.lmms.model.Chat",
    )
