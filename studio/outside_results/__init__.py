"""Results that other evaluation tools wrote, read as answers and figures.

    found = read_outside(Path("results"))      # lm_eval, openai_evals, vlmeval, helm or model_index

What wrote them is seen from the files. Rows with answers can be scored anew by our metrics; figures alone are
taken as they are told.
"""

from __future__ import annotations

from pathlib import Path

from studio.errors import DataError
from studio.outside_results import _helm, _lm_eval, _model_index, _openai_evals, _vlmeval
from studio.outside_results.told import Answer, Figure, Outside

__all__ = ["Answer", "Figure", "Outside", "read_outside"]

_READERS = (_lm_eval, _openai_evals, _vlmeval, _helm, _model_index)


def read_outside(path: Path, *, like: str = "") -> Outside:
    """Return what a file or folder of results holds; ``like`` names the format that is not to be found out.

    Raises:
        DataError: there is nothing, it is of no known format, or a line of it is damaged or not finite.
    """
    if not path.exists():
        raise DataError(f"{path} does not exist; a file or folder of results is needed")
    known = {reader.FORMAT: reader for reader in _READERS}
    reader = known.get(like) or next((each for each in _READERS if each.fits(path)), None)
    if reader is None:
        raise DataError(
            f"{path} is in no known format of results; known are those of lm-eval and lmms-eval "
            "(*results*.json), OpenAI evals (.jsonl), VLMEvalKit (.xlsx, .tsv, .csv, _acc.csv, _score.json), "
            "HELM (a run's folder) and model-index (README.md)"
        )
    try:
        found: Outside = reader.read(path)
    except RecursionError:
        raise DataError(f"{path} is nested too deeply to be results") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error})") from None
    if not found.answers and not found.figures:
        raise DataError(f"{path} holds no result in the format of {reader.FORMAT}")
    return found
