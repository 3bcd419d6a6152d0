from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import UserError
from bench.tables import read_table


def write(folder: Path, name: str, content: bytes) -> Path:
    file = folder / name
    file.write_bytes(content)
    return file


def read(file: Path) -> list[dict[str, object]]:
    return read_table(file, ["text", "label"], text=["text"]).to_pylist()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", b'\xef\xbb\xbfother,text,label\nx,"a, ""b""\nc",1\nx,NA,0\nx,,0\nx,2020-01-01,1\n'),
        ("rows.tsv", b'text\tother\tlabel\na, "b"\\n\tx\t1\nNA\tx\t0\n\tx\t0\n2020-01-01\tx\t1\n'),
        (
            "rows.jsonl",
            (
                b'{"text": "a, \\"b\\"\\nc", "label": "1"}\n{"text": "NA", "label": "0", "other": 1}\n'
                b'{"text": "", "label": "0"}\n{"text": "2020-01-01", "label": "1"}\n'
            ),
        ),
    ],
)
def test_cells_are_read_as_they_are_written(tmp_path: Path, name: str, content: bytes) -> None:
    rows = read(write(tmp_path, name, content))
    assert [row["text"] for row in rows[1:]] == ["NA", "", "2020-01-01"]
    assert rows[0]["text"] == ('a, "b"\\n' if name.endswith("tsv") else 'a, "b"\nc')
    assert [row["label"] for row in rows] == ["1", "0", "0", "1"]


def test_only_the_wanted_columns_of_a_parquet_file_are_read(tmp_path: Path) -> None:
    pq.write_table(
        pa.table({"label": [0, 1], "more": [b"\xff", b""], "text": ["a", "b"]}), tmp_path / "rows.parquet"
    )
    assert read(tmp_path / "rows.parquet") == [{"text": "a", "label": 0}, {"text": "b", "label": 1}]


def test_a_text_of_a_hundred_thousand_characters_is_read(tmp_path: Path) -> None:
    long = "word " * 20_000
    (row,) = read(write(tmp_path, "rows.csv", f"text,label\n{long},1\n".encode()))
    assert row["text"] == long
    (row,) = read(write(tmp_path, "rows.jsonl", f'{{"text": "{long}", "label": 1}}\n'.encode()))
    assert row["text"] == long


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv", ".jsonl"])
def test_an_empty_file_is_refused(tmp_path: Path, suffix: str) -> None:
    with pytest.raises(UserError, match=rf"rows\{suffix}: the file is empty"):
        read(write(tmp_path, f"rows{suffix}", b""))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.parquet", b"text,label\na,1\n", r"rows\.parquet: not readable as parquet"),
        (
            "rows.csv",
            b"text,label\na,1\nb,c,1\n",
            r"rows\.csv, line 3: 3 cells where the header has 2: 'b,c,1'",
        ),
        ("rows.tsv", b"text\tlabel\na\n", r"rows\.tsv, line 2: 1 cells where the header has 2"),
        ("rows.jsonl", b'{"text": "a", "label": 1}\n{"text": "b"', r"rows\.jsonl, row 2: JSON parse error"),
        (
            "rows.jsonl",
            b'{"text": "a", "label": 1}\n{"text": 5, "label": 1}\n',
            r"rows\.jsonl, row 2: .*string to number",
        ),
        (
            "rows.jsonl",
            b'{"text": "a", "label": 1}\n{"text": "\\ud800", "label": 1}\n',
            r"jsonl, row 2: .*surrogate",
        ),
        ("rows.xlsx", b"?", r"unknown kind of file '\.xlsx'; known: \.parquet, \.csv, \.tsv, \.jsonl"),
        (
            "rows.csv",
            b"texts,label\na,1\n",
            r"rows\.csv: unknown column 'text'; did you mean 'texts'\? known: label, texts",
        ),
        ("rows.csv", b"text,label,text\na,1,b\n", r"rows\.csv: column 'text' is there 2 times"),
    ],
)
def test_a_bad_file_is_refused_with_its_place(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        read(write(tmp_path, name, content))


def test_a_missing_column_of_a_parquet_file_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"sentence": ["a"], "labels": [0]}), tmp_path / "rows.parquet")
    with pytest.raises(UserError, match=r"rows\.parquet: unknown column 'text'; known: labels, sentence"):
        read(tmp_path / "rows.parquet")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: No such file"):
        read(tmp_path / "none.csv")
