"""What a file holds: its rows, each with the place that errors name, and the fields of a row.

In: a `.txt`, `.jsonl`, `.csv` or `.parquet` file. Out: rows in order. Invariant: whatever a file
holds, a row is what it says or one InputError that names the file and, where there is one, the row;
a missing value and NaN, as tables write one, are the same.
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rnr_dist.errors import InputError, shown

SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet")
LONGEST_FIELD = 2**31 - 1  # of a CSV; Python's own limit of 128 KiB is less than a long text


@dataclass(frozen=True)
class FileRow:
    """The fields of one row, and where it stands, for error messages."""

    place: str
    fields: Any


def suffix_of(path: Path) -> str:
    """The kind of a file, by its name, whose case does not count."""
    return path.suffix.lower()


def file_rows(path: Path, separator: str = "\n") -> Iterator[FileRow]:
    """The rows of a file; the non-blank parts of a `.txt` between `separator` are rows too."""
    suffix = _require_file(path)
    if suffix in (".parquet", ".csv"):
        records = _parquet(path) if suffix == ".parquet" else _csv(path)
        for number, fields in enumerate(records, start=1):
            yield FileRow(f"{path}, row {number}", fields)
        return
    parts = re.split(separator if suffix == ".txt" else "\n", _content(path))
    for number, part in enumerate(parts, start=1):
        if not part.strip():
            continue
        place = f"{path}, row {number}"
        yield FileRow(place, {"text": part.strip()} if suffix == ".txt" else _json(part, place))


def field_of(row: FileRow, name: str) -> Any:
    """The field of that name. Raises InputError where the row has none."""
    fields = object_of(row)
    if name not in fields:
        raise InputError(f"{row.place}: has no `{name}`, found {_names(fields)}")
    return fields[name]


def object_of(row: FileRow) -> dict[str, Any]:
    """All fields. Raises InputError where the row is no object."""
    if not isinstance(row.fields, dict):
        raise InputError(f"{row.place}: found {type(row.fields).__name__}, expected an object")
    return row.fields


def either_of(row: FileRow, names: tuple[str, str], needed: bool = True) -> str:
    """The first of the names that the row has a field of; the first one where it need have none."""
    fields = object_of(row)
    for name in names:
        if name in fields:
            return name
    if needed:
        raise InputError(
            f"{row.place}: has no `{names[0]}` or `{names[1]}`, found {_names(fields)}"
        )
    return names[0]


def text_of(row: FileRow, name: str = "text", may_be_empty: bool = False) -> str:
    """A field that must be there, and hold words."""
    field_of(row, name)
    text = string_of(row, name) or ""
    if not (text.strip() or may_be_empty):
        raise InputError(f"{row.place}: `{name}` is empty, expected some words")
    return text


def string_of(row: FileRow, name: str) -> str | None:
    """A text, if the row has one. Raises InputError also for what no UTF-8 file could hold."""
    value = object_of(row).get(name)
    if _is_missing(value):
        return None
    if not isinstance(value, str):
        raise InputError(f"{row.place}: `{name}` is {shown(value)}, expected a string")
    if "\0" in value or not _encodes(value):
        raise InputError(
            f"{row.place}: `{name}` holds a NUL or half of a character ({shown(value)}), expected "
            "text that can be written as UTF-8"
        )
    return value


def score_of(row: FileRow, name: str) -> float | None:
    """A score in [0, 1], if the row has one; a CSV's is a number's text."""
    value: Any = object_of(row).get(name)
    if _is_missing(value):
        return None
    try:
        score = math.inf if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        raise InputError(
            f"{row.place}: `{name}` is {shown(value)}, expected a number or null"
        ) from None
    if not 0 <= score <= 1:
        raise InputError(f"{row.place}: `{name}` is {shown(value)}, expected 0 to 1")
    return score


def _require_file(path: Path) -> str:
    """The kind of a file that is there. Raises InputError."""
    try:
        there, file = path.exists(), path.is_file()
    except (OSError, ValueError) as error:  # a name that is too long, a folder that is closed
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{path}: cannot be read ({reason}), expected a file") from None
    if not there:
        raise InputError(
            f"{path}: found no such file, expected builtin:NAME, hub:NAME[:SPLIT] or a file"
        )
    suffix = suffix_of(path)
    if suffix not in SUFFIXES:
        raise InputError(
            f"{path}: found extension {suffix or 'none'!r}, expected {', '.join(SUFFIXES)}"
        )
    if not file:
        raise InputError(f"{path}: cannot be read (a folder or a device), expected a file")
    return suffix


def _content(path: Path) -> str:
    try:
        return _plain(path, path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected UTF-8 text") from error


def _plain(path: Path, text: str) -> str:
    """The text itself. UTF-16 without its mark passes for UTF-8 with a NUL beside each letter."""
    if "\0" in text:
        raise InputError(f"{path}: found NUL characters, as UTF-16 has them, expected UTF-8 text")
    return text


def _json(line: str, place: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_once)
    except RecursionError:
        raise InputError(f"{place}: is nested too deeply, expected one object a line") from None
    except ValueError as error:
        raise InputError(f"{place}: is no JSON ({error}), expected one object a line") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object, each of which must be there once."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError(f"a key twice among {_names([key for key, _ in pairs])}")
    return fields


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            _require_distinct(path, file.schema_arrow.names)
            # By batches: CivilComments' two million rows as objects would take gigabytes.
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except InputError:
        raise
    except (OSError, pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected a Parquet file") from error


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    """The records under a header line, all as strings; an empty field is None."""
    csv.field_size_limit(LONGEST_FIELD)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = csv.reader((_plain(path, line) for line in file), strict=True)
            header = next(rows, [])
            _require_distinct(path, header)
            for number, values in enumerate(filter(None, rows), start=1):
                if len(values) != len(header):
                    raise InputError(
                        f"{path}, row {number}: found {len(values)} fields, expected "
                        f"{len(header)} as in the header"
                    )
                yield dict(zip(header, (value or None for value in values), strict=True))
    except csv.Error as error:
        raise InputError(
            f"{path}, line {rows.line_num}: is no CSV ({error}), expected quotes in pairs"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read ({error}), expected UTF-8 text") from error


def _require_distinct(path: Path, names: list[str]) -> None:
    """Raises InputError where two columns have one name: a row would hold the last one's value."""
    for place, name in enumerate(names):
        if name and name in names[:place]:
            raise InputError(f"{path}: has the column `{name}` twice, expected each once")


def _is_missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _names(fields: Any) -> str:
    return shown(", ".join(fields), str) or "nothing"
