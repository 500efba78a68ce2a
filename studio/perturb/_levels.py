"""What levels are measured by: the same for pictures of any size and texts of any length."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image as Picture


def like_224(picture: Picture) -> float:
    """Return how many of this picture's pixels are one of a picture whose shorter side has 224."""
    return min(picture.size) / 224


def first(share: float, count: int) -> int:
    """Return how many of ``count`` things a share of them is, at least one if there is one."""
    return min(count, max(1, round(share * count)))
