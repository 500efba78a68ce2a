"""Reading and checking rows of messages with typed media parts."""

from studio.data.checks import check_data, check_media, check_modalities
from studio.data.index import Rows
from studio.data.jsonl import load_data, samples, write_jsonl
from studio.data.rows import read_row, row_of

__all__ = [
    "Rows",
    "check_data",
    "check_media",
    "check_modalities",
    "load_data",
    "read_row",
    "row_of",
    "samples",
    "write_jsonl",
]
