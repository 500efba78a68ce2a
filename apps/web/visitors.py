"""Who asks: every handler of every page learns it first, and what that person may do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from studio.accounts import ROLES
from studio.errors import TriptychError

SEAT = "triptych.visitor"
"""Under this key of a request's ASGI scope the guard (`apps.web.guard`) says who it let in."""


@dataclass(frozen=True, kw_only=True)
class Visitor:
    """One person: a pseudonym under which verdicts are kept, a role, and the group of raters."""

    name: str
    role: str = "expert"
    group: str = ""

    def may(self, role: str) -> bool:
        """Return whether this visitor may do what takes at least ``role``."""
        return ROLES.index(self.role) >= ROLES.index(role)


LOCAL = Visitor(name="local", role="administrator")
"""The only visitor of an app on the loopback without accounts."""


def anyone(request: Any) -> Visitor:
    """Let everyone in as the one visitor that a loopback has."""
    return LOCAL


def judge(request: Any) -> Visitor:
    """Let everyone in as an expert, for a blind app without accounts: nobody there may read the names."""
    return Visitor(name="local")


def seated(request: Any) -> Visitor:
    """Return whom the guard let in, of an app with accounts or beyond the loopback.

    Raises:
        Refused: the request did not come by the guard.
    """
    scope = getattr(getattr(request, "request", None), "scope", None)
    visitor = scope.get(SEAT) if isinstance(scope, dict) else None
    if not isinstance(visitor, Visitor):
        raise Refused("Sign in first.")
    return visitor


class Refused(TriptychError):
    """The visitor is not known, or may not do this."""


def require(visitor: Visitor, role: str) -> Visitor:
    """Return the visitor, or refuse one whose role is not enough.

    Raises:
        Refused: the visitor's role stands before ``role`` in `ROLES`.
    """
    if not visitor.may(role):
        raise Refused(f"This page is for the role {role}; you are signed in as {visitor.role}.")
    return visitor
