"""Data formats of other tools and our own: told apart, read and written without loss, one file each.

A format's file has ``detect(path) -> reason or None``, ``read(path, ledger) -> Iterator[Sample]`` for one
split and ``write(samples, folder, split, ledger) -> rows written``, and says in its docstring what it
keeps and what it refuses. ``SUFFIXES`` are those of its data files; a format of whole folders has
``splits(path) -> {name: path}`` instead. A row that cannot be read or said goes into the `Ledger` with its
file and line, and the next one follows.
"""

from studio.data.formats._convert import Conversion, convert, detect, read
from studio.data.formats._ledger import Ledger

__all__ = ["Conversion", "Ledger", "convert", "detect", "read"]
