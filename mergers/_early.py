"""Hashing the inputs while torch is still being imported: on two processors it costs no time then."""

from __future__ import annotations

import threading
from contextlib import suppress

from mergers._spec import MergeSpec
from studio.checkpoint import Checkpoint
from studio.errors import TriptychError


def hash_inputs(spec: MergeSpec) -> None:
    """Begin to hash base and models in a thread that nobody waits for; what is wrong is told by the merge."""
    paths = [model.path for model in spec.models] + ([spec.base] if spec.base else [])

    def work() -> None:
        for path in paths:
            with suppress(TriptychError, OSError):
                Checkpoint(path).fingerprint(threads=1)

    threading.Thread(target=work, name="fingerprints", daemon=True).start()
