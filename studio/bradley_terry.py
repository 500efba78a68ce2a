"""Bradley-Terry scores for many samples of votes at once, and how well a sample fixes them.

The chance that a beats b is 1 / (1 + 10^((score b - score a) / 400)), a tie counts as half of a win for each
(Bradley and Terry 1952, Biometrika 39, 324). The likelihood is concave, so Newton's method finds the one
maximum (Hunter 2004, Annals of Statistics 32, 384, section 3) for a thousand samples in one pass of array
operations; that is what makes intervals by resampling cheap.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

#: Every pair is given so much of a tie, or a variant that never lost would be infinitely good.
PRIOR = 0.5
#: Points of Elo in one unit of the logistic function.
ELO = 400 / np.log(10)
_STEPS, _LONGEST, _CLOSE = 100, 1.0, 1e-9


def scores(won: Array, prior: float = PRIOR) -> Array:
    """Return the scores [..., V] in Elo, their mean 0.

    Args:
        won: how often a variant (row) beat another (column) [..., V, V], a tie half for each; zeros on the
            diagonal. Leading axes are samples.
        prior: ties that every pair is given besides.
    """
    size = won.shape[-1]
    wins = won + prior / 2 * (1 - np.eye(size))
    games = wins + np.swapaxes(wins, -1, -2)
    found = np.zeros(won.shape[:-1])
    for _ in range(_STEPS):
        chance = _chances(found)
        slope = (wins - games * chance).sum(-1)
        step = np.linalg.solve(_information(games, chance) + 1.0, slope[..., None])[..., 0]
        # Far from the maximum the curve is flat and Newton's step too long.
        furthest = np.abs(step).max(-1, keepdims=True, initial=0.0)
        found += step * np.minimum(1.0, _LONGEST / np.maximum(furthest, _LONGEST))
        if furthest.max(initial=0.0) < _CLOSE:
            break
    centred: Array = ELO * (found - found.mean(-1, keepdims=True))
    return centred


def covariance(scores: Array, games: Array, prior: float = PRIOR) -> Array:
    """Return the covariance [V, V] of scores whose mean is 0, in squares of Elo.

    That of the observed information (Efron and Hinkley 1978, Biometrika 65, 457): known, and large, for pairs
    that nobody judged, where resampling has nothing to draw from.

    Args:
        scores: in Elo [V].
        games: how often two variants were compared [V, V], symmetric.
        prior: ties that every pair is given besides.
    """
    size = len(scores)
    given = games + prior * (1 - np.eye(size))
    spread = np.linalg.inv(_information(given, _chances(scores / ELO)) + 1.0)
    # Ones were added where the information has none: along all scores together.
    found: Array = ELO**2 * (spread - 1 / size**2)
    return found


def variances(scores: Array, games: Array, prior: float = PRIOR) -> Array:
    """Return the variance [V, V] of each difference of two scores, in squares of Elo; see `covariance`."""
    spread = covariance(scores, games, prior)
    own = np.diag(spread)
    found: Array = np.add.outer(own, own) - 2 * spread
    return found


def chances(scores: Array) -> Array:
    """Return the chance [V, V] that a variant (row) beats another (column), from scores in Elo [V]."""
    return _chances(scores / ELO)


def _chances(strength: Array) -> Array:
    found: Array = 1 / (1 + np.exp(strength[..., None, :] - strength[..., :, None]))
    return found


def _information(games: Array, chance: Array) -> Array:
    """Return minus the Hessian of the log-likelihood [..., V, V]; its rows add up to 0."""
    weight = games * chance * (1 - chance)
    found: Array = np.eye(weight.shape[-1]) * weight.sum(-1)[..., None] - weight
    return found
