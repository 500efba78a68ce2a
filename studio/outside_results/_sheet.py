"""The first sheet of an .xlsx file as texts (ECMA-376 part 1, 18.3): a zip of XML, read without formulas."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from studio.errors import DataError

_SPACE = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_LARGEST = 256 << 20  # bytes of one part: predictions of a benchmark are far smaller
_WIDEST = 1 << 14  # columns that the format allows


def cells(path: Path) -> Iterator[list[str]]:
    """Yield the rows of the first sheet, empty cells as empty texts.

    Raises:
        DataError: it is no such file, is damaged, or has a document type, which the format does not.
    """
    try:
        with zipfile.ZipFile(path) as packed:
            names = packed.namelist()
            strings: list[str] = []
            if "xl/sharedStrings.xml" in names:
                shared = _part(packed, "xl/sharedStrings.xml", path)
                strings = [_text(each) for each in shared.iter(f"{_SPACE}si")]
            sheets = sorted(
                (name for name in names if re.fullmatch(r"xl/worksheets/sheet\d+\.xml", name)),
                key=lambda name: (len(name), name),
            )
            if not sheets:
                raise DataError(f"{path} holds no sheet")
            for at, row in enumerate(_part(packed, sheets[0], path).iter(f"{_SPACE}row"), 1):
                yield _row(row, strings, f"{path}:{at}")
    except (zipfile.BadZipFile, ElementTree.ParseError, NotImplementedError, RuntimeError):
        raise DataError(f"{path} is no .xlsx file, or it is damaged") from None


def _part(packed: zipfile.ZipFile, name: str, path: Path) -> ElementTree.Element:
    with packed.open(name) as file:
        data = file.read(_LARGEST + 1)
    if len(data) > _LARGEST:
        raise DataError(f"{path} unpacks to more than {_LARGEST >> 20} MB; save it as .tsv")
    if b"<!DOCTYPE" in data:
        raise DataError(f"{path} has a document type of its own, which no .xlsx file has")
    return ElementTree.fromstring(data)


def _row(row: ElementTree.Element, strings: list[str], where: str) -> list[str]:
    found: list[str] = []
    for cell in row.iter(f"{_SPACE}c"):
        letters = re.match(r"[A-Z]{1,3}", cell.get("r", ""))
        column = len(found)
        if letters:
            column = 0
            for letter in letters[0]:
                column = 26 * column + ord(letter) - 64
            column -= 1
        if column < len(found) or column >= _WIDEST:
            raise DataError(f"{where}: the cells are not in order")
        found += [""] * (column - len(found))
        value = cell.findtext(f"{_SPACE}v") or ""
        if cell.get("t") == "s":
            if not value.isdecimal() or len(value) > 9 or int(value) >= len(strings):
                raise DataError(f"{where}: a cell names a text that is not there")
            value = strings[int(value)]
        elif cell.get("t") == "inlineStr":
            value = _text(cell)
        found.append(value)
    return found


def _text(element: ElementTree.Element) -> str:
    return "".join(each.text or "" for each in element.iter(f"{_SPACE}t"))
