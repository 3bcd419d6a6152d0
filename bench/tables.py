"""Read one file of rows (Parquet, CSV, TSV, JSON lines) into a table, or say what is wrong with the file.

Nothing is guessed from cells: ``NA``, ``null`` or ``2020-01-01`` stays text, and an empty cell is empty text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet as pq

from bench.errors import UserError, unknown

SUFFIXES = (".parquet", ".csv", ".tsv", ".jsonl")
LARGEST_ROW = 1 << 28  # bytes; CSV and JSON lines are parsed in blocks of whole rows


def read_table(file: Path, columns: Sequence[str], *, text: Sequence[str]) -> pa.Table:
    """Read columns of a file; TSV has no quotes, CSV may have line breaks inside quotes.

    Args:
        file: What to read; its suffix says how.
        columns: Names that must be there.
        text: Those of them that are read as text whatever they look like.

    Raises:
        UserError: For an unreadable or empty file, or a missing column.
    """
    suffix = {".json": ".jsonl"}.get(file.suffix, file.suffix)
    if suffix not in SUFFIXES:
        raise UserError(f"{file}: unknown kind of file {file.suffix!r}; known: {', '.join(SUFFIXES)}")
    try:
        if not file.stat().st_size:
            raise UserError(f"{file}: the file is empty")
        if suffix == ".parquet":
            table = _read_parquet(file, columns)
        elif suffix == ".jsonl":
            table = _read_json_lines(file, text)
        else:
            table = _read_csv(file, columns, tabs=suffix == ".tsv")
    except pa.ArrowInvalid as error:
        raise UserError(f"{file}: not readable as {suffix[1:]}: {_first_line(error)}") from error
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or _first_line(error)}") from error
    for column in columns:
        if column not in table.column_names:
            raise unknown("column", column, table.column_names, where=str(file))
        if (times := table.column_names.count(column)) > 1:
            raise UserError(f"{file}: column {column!r} is there {times} times")
    return table.select(columns)


def _read_parquet(file: Path, columns: Sequence[str]) -> pa.Table:
    """Read the wanted columns, or the bare schema if one is missing."""
    with pq.ParquetFile(file) as parquet:
        if set(columns) <= set(parquet.schema_arrow.names):
            return parquet.read(columns=list(columns))
        return parquet.schema_arrow.empty_table()


def _read_csv(file: Path, columns: Sequence[str], *, tabs: bool) -> pa.Table:
    misfits: list[Any] = []

    def keep(row: Any) -> str:
        misfits.append(row)
        return "error"

    try:
        return pyarrow.csv.read_csv(
            file,
            read_options=pyarrow.csv.ReadOptions(use_threads=False, block_size=_block_size(file)),
            parse_options=pyarrow.csv.ParseOptions(
                delimiter="\t" if tabs else ",",
                quote_char=False if tabs else '"',
                newlines_in_values=not tabs,
                invalid_row_handler=keep,
            ),
            convert_options=pyarrow.csv.ConvertOptions(
                check_utf8=False,  # checked row by row later, where the row can be named
                column_types=dict.fromkeys(columns, pa.string()),
                strings_can_be_null=False,
            ),
        )
    except pa.ArrowInvalid:
        if not misfits:
            raise
        row = misfits[0]
        place = f"{file}, line {row.number}" if row.number is not None else str(file)
        raise UserError(
            f"{place}: {row.actual_columns} cells where the header has {row.expected_columns}: {row.text[:60]!r}"
        ) from None


def _read_json_lines(file: Path, text: Sequence[str]) -> pa.Table:
    try:
        return pyarrow.json.read_json(
            file,
            read_options=pyarrow.json.ReadOptions(use_threads=False, block_size=_block_size(file)),
            parse_options=pyarrow.json.ParseOptions(
                explicit_schema=pa.schema([(name, pa.string()) for name in text])
            ),
        )
    except pa.ArrowInvalid as error:
        message = _first_line(error)
        if (row := re.search(r"(.*) in row (\d+)$", message)) is None:
            raise
        raise UserError(f"{file}, row {int(row[2]) + 1}: {row[1]}") from error


def _block_size(file: Path) -> int:
    return min(file.stat().st_size + 1, LARGEST_ROW)


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]
