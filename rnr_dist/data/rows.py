"""What a file holds: its rows, each with the place that errors name, and the fields of a row.

In: a `.txt`, `.jsonl`, `.json`, `.csv` (each also as `.gz`) or `.parquet` file. Out: rows in order.
Invariant: whatever a file holds, a row is what it says or one InputError that names the file and,
where there is one, the row; a missing value and NaN, as tables write one, are the same.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import math
import re
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, TextIO
from urllib.parse import urlsplit

from rnr_dist.errors import InputError, shown

SUFFIXES = (".txt", ".jsonl", ".json", ".csv", ".parquet")
PACKED = ".gz"
UNREADABLE = (OSError, UnicodeDecodeError, EOFError, zlib.error)
LONGEST_FIELD = 2**31 - 1  # of a CSV; Python's own limit of 128 KiB is less than a long text


@dataclass(frozen=True)
class DataFile:
    """A file on this disk. name: what errors call it, where that is not its path. columns: what
    fields are called in it, by the names that are asked for here; dots lead into objects."""

    path: Path
    name: str = ""
    columns: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        return self.name or str(self.path)


File = Path | DataFile


@dataclass(frozen=True)
class FileRow:
    """The fields of one row, and where it stands, for error messages."""

    place: str
    fields: Any
    columns: Mapping[str, str] = field(default_factory=dict)

    def key(self, name: str) -> str:
        """What the file calls the field `name`."""
        return self.columns.get(name, name)


def suffix_of(file: File) -> str:
    """The kind of a file, by its name, whose case and whose `.gz` do not count."""
    return _last_part(file).suffix.lower()


def stem_of(file: File) -> str:
    """The name of a file without what tells its kind."""
    return _last_part(file).stem


def file_rows(file: File, separator: str = "\n") -> Iterator[FileRow]:
    """The rows of a file; the non-blank parts of a `.txt` between `separator` are rows too.

    A `.json` is a list of rows, or holds one a line. Every row has the fields that `columns` names.
    """
    own = file if isinstance(file, DataFile) else DataFile(file)
    for place, fields in _rows(own, _require_file(own), separator):
        row = FileRow(place, fields, own.columns)
        for name in own.columns:
            if not _found(row, name)[0]:
                raise InputError(
                    f"{place}: has no `{row.key(name)}`, which columns.{name} names, found "
                    f"{_names(fields)}"
                )
        yield row


def lines_of(file: File, longest: int) -> Iterator[str]:
    """The lines of a text file of any ending, without their ends.

    Raises InputError, by the line, for one of more than `longest` bytes and for what is no UTF-8.
    """
    own = file if isinstance(file, DataFile) else DataFile(file)
    _require_file(own, any_ending=True)
    packed, number = str(own).lower().endswith(PACKED), 0
    try:
        with gzip.open(own.path, "rb") if packed else own.path.open("rb") as handle:
            while line := handle.readline(longest + 1):
                number += 1
                if len(line) > longest:
                    raise InputError(
                        f"{own}, line {number}: has more than {longest:,} bytes, expected at most "
                        "so many"
                    )
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                yield _plain(own, text).rstrip("\r\n")
    except UNREADABLE as error:
        place = f"{own}, line {number or 1}"
        raise InputError(f"{place}: cannot be read ({error}), expected UTF-8 text") from error


def field_of(row: FileRow, name: str) -> Any:
    """The field of that name. Raises InputError where the row has none."""
    there, value = _found(row, name)
    if not there:
        raise InputError(f"{row.place}: has no `{row.key(name)}`, found {_names(row.fields)}")
    return value


def value_of(row: FileRow, name: str) -> Any:
    """The field of that name, None where the row has none."""
    return _found(row, name)[1]


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
        raise InputError(f"{row.place}: `{row.key(name)}` is empty, expected some words")
    return text


def string_of(row: FileRow, name: str) -> str | None:
    """A text, if the row has one. Raises InputError also for what no UTF-8 file could hold."""
    value, name = value_of(row, name), row.key(name)
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
    value, name = value_of(row, name), row.key(name)
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


def _last_part(file: File) -> PurePosixPath:
    """The last part of a file's name or address, without `.gz`."""
    name = str(file)
    part = PurePosixPath(urlsplit(name).path if "://" in name else name)
    return part.with_suffix("") if part.suffix.lower() == PACKED else part


def _found(row: FileRow, name: str) -> tuple[bool, Any]:
    """Whether the row has that field, and its value. Raises InputError where it is no object."""
    value: Any = object_of(row)
    key = row.key(name)
    if key in value:
        return True, value[key]
    for part in key.split(".") if name in row.columns else [key]:
        if not isinstance(value, dict) or part not in value:
            return False, None
        value = value[part]
    return True, value


def _require_file(file: DataFile, any_ending: bool = False) -> str:
    """The kind of a file that is there. Raises InputError."""
    try:
        there, whole = file.path.exists(), file.path.is_file()
    except (OSError, ValueError) as error:  # a name that is too long, a folder that is closed
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{file}: cannot be read ({reason}), expected a file") from None
    if not there:
        raise InputError(
            f"{file}: found no such file, expected builtin:NAME, hub:NAME[:SPLIT], a file or an "
            "address as of s3://"
        )
    suffix = suffix_of(file)
    if suffix not in SUFFIXES and not any_ending:
        raise InputError(
            f"{file}: found extension {suffix or 'none'!r}, expected {', '.join(SUFFIXES)}"
        )
    if not whole:
        raise InputError(f"{file}: cannot be read (a folder or a device), expected a file")
    return suffix


def _rows(file: DataFile, suffix: str, separator: str) -> Iterator[tuple[str, Any]]:
    """(place, fields) of each row."""
    if suffix in (".parquet", ".csv"):
        for number, fields in enumerate(_parquet(file) if suffix == ".parquet" else _csv(file), 1):
            yield f"{file}, row {number}", fields
        return
    content = _content(file)
    if suffix == ".json" and content.lstrip().startswith("["):
        for number, fields in enumerate(_json(content, str(file), "a list of objects"), 1):
            yield f"{file}, row {number}", fields
        return
    for number, part in enumerate(re.split(separator if suffix == ".txt" else "\n", content), 1):
        place = f"{file}, row {number}"
        if part.strip():
            yield place, {"text": part.strip()} if suffix == ".txt" else _json(part, place)


def _opened(file: DataFile, newline: str | None = None) -> TextIO:
    """A file of text, unpacked where its name says that it is packed."""
    if str(file).lower().endswith(PACKED):
        unpacked: Any = gzip.GzipFile(file.path)
        return io.TextIOWrapper(unpacked, encoding="utf-8-sig", newline=newline)
    return file.path.open(encoding="utf-8-sig", newline=newline)


def _content(file: DataFile) -> str:
    try:
        with _opened(file) as handle:
            return _plain(file, handle.read())
    except UNREADABLE as error:
        raise InputError(f"{file}: cannot be read ({error}), expected UTF-8 text") from error


def _plain(file: DataFile, text: str) -> str:
    """The text itself. UTF-16 without its mark passes for UTF-8 with a NUL beside each letter."""
    if "\0" in text:
        raise InputError(f"{file}: found NUL characters, as UTF-16 has them, expected UTF-8 text")
    return text


def _json(content: str, place: str, expected: str = "one object a line") -> Any:
    try:
        return json.loads(content, object_pairs_hook=_once)
    except RecursionError:
        raise InputError(f"{place}: is nested too deeply, expected {expected}") from None
    except ValueError as error:
        raise InputError(f"{place}: is no JSON ({error}), expected {expected}") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object, each of which must be there once."""
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError(f"a key twice among {_names([key for key, _ in pairs])}")
    return fields


def _parquet(data: DataFile) -> Iterator[dict[str, Any]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(data.path) as file:
            _require_distinct(data, file.schema_arrow.names)
            # By batches: CivilComments' two million rows as objects would take gigabytes.
            for batch in file.iter_batches():
                yield from batch.to_pylist()
    except InputError:
        raise
    except (OSError, pyarrow.ArrowException, ValueError, OverflowError) as error:
        raise InputError(f"{data}: cannot be read ({error}), expected a Parquet file") from error


def _csv(data: DataFile) -> Iterator[dict[str, Any]]:
    """The records under a header line, all as strings; an empty field is None."""
    csv.field_size_limit(LONGEST_FIELD)
    try:
        with _opened(data, newline="") as file:
            rows = csv.reader((_plain(data, line) for line in file), strict=True)
            header = next(rows, [])
            _require_distinct(data, header)
            for number, values in enumerate(filter(None, rows), start=1):
                if len(values) != len(header):
                    raise InputError(
                        f"{data}, row {number}: found {len(values)} fields, expected "
                        f"{len(header)} as in the header"
                    )
                yield dict(zip(header, (value or None for value in values), strict=True))
    except csv.Error as error:
        raise InputError(
            f"{data}, line {rows.line_num}: is no CSV ({error}), expected quotes in pairs"
        ) from error
    except UNREADABLE as error:
        raise InputError(f"{data}: cannot be read ({error}), expected UTF-8 text") from error


def _require_distinct(file: DataFile, names: list[str]) -> None:
    """Raises InputError where two columns have one name: a row would hold the last one's value."""
    for place, name in enumerate(names):
        if name and name in names[:place]:
            raise InputError(f"{file}: has the column `{name}` twice, expected each once")


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
