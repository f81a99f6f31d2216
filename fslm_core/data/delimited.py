"""CSV and TSV files: their encoding, their delimiter, their records. Every cell is text, as written: 00123 stays so."""

from __future__ import annotations

import codecs
import csv
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from unicodedata import normalize

from ..errors import DataError
from .table import ERRORS, Broken, Reading, Record, Table

_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_SAMPLE = 1 << 18
_CHUNK = 1 << 20
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
"""Byte order marks, UTF-32's before the one of UTF-16 that it begins with."""
_LETTER = re.compile(rb"[A-Za-z\x80-\xff]")
_HIGH = re.compile(rb"[\x80-\xff]")
_ZEROS = 0.2
"""A text in UTF-16 has more zero bytes than that, any other a few by accident."""
_FOREIGN = 0.25
"""No text of a language that cp1252 is made for has a larger share of letters outside ASCII."""


def open_delimited(path: Path, reading: Reading) -> Table:
    """Open a CSV or TSV file.

    Raises:
        DataError: no header, no row, an encoding or delimiter that cannot be told.
    """
    if reading.sheet:
        raise DataError("a text file has no sheets", where=str(path), hint="leave --sheet out")
    warnings: list[str] = []
    encoding = _encoding(path, reading, warnings)
    delimiter = _delimiter(path, encoding, reading)
    records = _rows(path, encoding, delimiter)
    header = next(((line, cells) for line, cells in records if any(cell.strip() for cell in cells)), None)
    if header is None:
        raise DataError(
            "the file is empty",
            where=str(path),
            expected="a header that names the columns, and rows below it",
            hint="export the table again, with its header",
        )
    columns = tuple(normalize("NFC", cell.strip()) for cell in header[1])
    while columns and not columns[-1]:
        columns = columns[:-1]
    about = {"kind": "csv", "encoding": encoding, "delimiter": _DELIMITERS.get(delimiter, delimiter)}
    return Table(path, columns, _records(records, columns), about=about, warnings=warnings)


def _records(rows: Iterator[tuple[int, list[str]]], columns: tuple[str, ...]) -> Iterator[Record]:
    width = len(columns)
    for line, cells in rows:
        values = [cell_of(cell) for cell in cells]
        filled = any(value is not None for value in values)
        if filled and (len(values) < width or any(value is not None for value in values[width:])):
            plural = "s" * (len(values) != 1)
            why = f"the row has {len(values)} cell{plural}, the header {width}; is a delimiter or a quote missing?"
            yield Record(line, dict(zip(columns, values, strict=False)), why)
            continue
        yield Record(line, dict(zip(columns, values, strict=False)))


def cell_of(text: str) -> str | Broken | None:
    """A cell's text in form NFC without the white space around it; null if nothing is left.

    >>> cell_of("  00123 "), cell_of(" "), cell_of("#N/A")
    ('00123', None, Broken(why='it holds the error #N/A'))
    """
    text = normalize("NFC", text.strip())
    return Broken(f"it holds the error {text}") if text in ERRORS else text or None


def _rows(path: Path, encoding: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """The file's rows, each with the line on which it begins.

    Raises:
        DataError: quotes that do not balance, bytes that the encoding does not know.
    """
    with path.open(encoding=encoding, newline="") as file:
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except csv.Error as error:
                raise DataError(
                    f"the quotes of a row do not balance: {error}",
                    where=f"{path.name}, line {line}",
                    expected='cells in double quotes, a quote inside one doubled: "5"" screen"',
                    hint="mend that line, or save the table as .xlsx",
                ) from None
            except UnicodeError as error:
                raise DataError(
                    f"the file is not {encoding}: {error}",
                    where=f"{path.name}, near line {line}",
                    hint="name its encoding, as with --encoding cp1252",
                ) from None
            if cells is None:
                return
            yield line, cells


# -- encoding --------------------------------------------------------------------------------------------------------


def _encoding(path: Path, reading: Reading, warnings: list[str]) -> str:
    """The encoding asked for, of the byte order mark, UTF-8 if all of it is, UTF-16 by its zeros, or else cp1252."""
    if reading.encoding is not None:
        return _known(reading.encoding)
    with path.open("rb") as file:
        sample = file.read(_SAMPLE)
    for mark, name in _MARKS:
        if sample.startswith(mark):
            return name
    if sample.count(0) > _ZEROS * len(sample):
        even, odd = sample[::2].count(0), sample[1::2].count(0)
        guessed = "utf-16-le" if odd > 4 * even else "utf-16-be" if even > 4 * odd else None
        if guessed is None:
            raise _untold(path, "it holds zero bytes")
        warnings.append(f"the file has no byte order mark and was read as {guessed}")
        return guessed
    if _decodes(path, "utf-8"):
        return "utf-8"
    return _western(path, warnings)


def _western(path: Path, warnings: list[str]) -> str:
    """cp1252, if the file may be that; the user is shown what it makes of the first foreign letters."""
    letters = high = 0
    shown = b""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            letters += len(_LETTER.findall(chunk))
            high += len(_HIGH.findall(chunk))
            if not shown and (found := _HIGH.search(chunk)):
                before, after = chunk[: found.start()], chunk[found.start() :]
                shown = before.rpartition(b"\n")[2][-20:] + after.partition(b"\n")[0][:20]
    if high > _FOREIGN * letters or not _decodes(path, "cp1252"):
        raise _untold(path, "it is neither UTF-8 nor a Western European Windows text")
    example = shown.decode("cp1252", "replace").strip()
    warnings.append(f"the file is not UTF-8 and was read as cp1252: is {example!r} right? If not, use --encoding NAME")
    return "cp1252"


def _decodes(path: Path, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        with path.open("rb") as file:
            while chunk := file.read(_CHUNK):
                decoder.decode(chunk)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _known(name: str) -> str:
    try:
        found = codecs.lookup(name)
    except (LookupError, ValueError):
        found = None
    if found is None or not getattr(found, "_is_text_encoding", True):
        raise DataError(
            "there is no such text encoding",
            where="--encoding",
            found=name,
            expected="a name such as utf-8, utf-16, cp1252, cp1251 or shift_jis",
            hint="name one that Python knows",
        )
    return "utf-8-sig" if found.name == "utf-8" else found.name


def _untold(path: Path, why: str) -> DataError:
    return DataError(
        f"the file's encoding cannot be told: {why}",
        where=str(path),
        hint="name it, as with --encoding cp1251, or save the table as .xlsx or as CSV in UTF-8",
    )


# -- delimiter -------------------------------------------------------------------------------------------------------


def _delimiter(path: Path, encoding: str, reading: Reading) -> str:
    """The one asked for, a tab for ``.tsv``, or the one under which the first rows make the best table.

    ``csv.Sniffer`` takes letters for delimiters where messages are long, so this one counts columns: the wanted ones
    that are found, then whether rows are as wide as the header, then how wide.
    """
    if reading.delimiter is not None:
        given = {"tab": "\t", "\\t": "\t"}.get(reading.delimiter, reading.delimiter)
        if len(given) != 1 or given in '"\r\n':
            raise DataError(
                "a delimiter is one character",
                where="--delimiter",
                found=reading.delimiter,
                expected="',', ';', '|' or tab",
                hint="pass --delimiter ';'",
            )
        return given
    if path.suffix.lower() == ".tsv":
        return "\t"
    try:
        with path.open(encoding=encoding, newline="") as file:
            sample = file.read(_SAMPLE)
    except UnicodeError:
        return ","  # the rows' reader says where it is wrong
    scores = {delimiter: _score(sample, delimiter, reading.wanted) for delimiter in _DELIMITERS}
    best = max(scores.values())
    likely = [delimiter for delimiter, score in scores.items() if score == best]
    if len(likely) > 1 and best[2] > 1:
        raise DataError(
            "the delimiter cannot be told",
            where=str(path),
            found=" or ".join(_DELIMITERS[delimiter] for delimiter in likely),
            hint="name it, as with --delimiter ';'",
        )
    return likely[0]


def _score(sample: str, delimiter: str, wanted: tuple[str, ...]) -> tuple[int, float, int]:
    rows: list[list[str]] = []
    with suppress(csv.Error):
        rows.extend(row for row in islice(csv.reader(sample.splitlines(True), delimiter=delimiter), 100) if row)
    if not rows:
        return 0, 0.0, 0
    header = [normalize("NFC", cell.strip()) for cell in rows[0]]
    if len(header) == 1:
        return len({*wanted} & {*header}), 0.0, 1
    widths = Counter(map(len, rows[: -1 if len(rows) > 2 else None]))
    return len({*wanted} & {*header}), widths[len(header)] / widths.total(), len(header)


__all__ = ["cell_of", "open_delimited"]
