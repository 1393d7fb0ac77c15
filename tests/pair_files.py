"""Files of question/answer rows, and the configuration, the split or the refusal that they give."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.config.data import DataConfig, Source
from pipeline.core.errors import DataError
from pipeline.core.records import PairRows, Split
from pipeline.data.source import load

Row = dict[str, Any]


def pair_rows(count: int) -> list[Row]:
    """Return rows with distinct questions and answers; both name the row's number."""
    return [{"question": f"what is thing {i}", "answer": f"Thing {i} is number {i}."} for i in range(count)]


def write_jsonl(path: Path, rows: Sequence[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_rows(path: Path, rows: list[Row]) -> Path:
    """Write the rows in the format of the path's suffix: .jsonl, .csv, .tsv or .parquet."""
    if path.suffix == ".jsonl":
        write_jsonl(path, rows)
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        with path.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter={".csv": ",", ".tsv": "\t"}[path.suffix])
            writer.writeheader()
            writer.writerows(rows)
    return path


def data_config(path: Path | str, **keys: Any) -> DataConfig:
    """Return the `data` section for a local file or folder."""
    return DataConfig(**{"source": Source.local, "name": "x", "path": str(path), **keys})


def load_split(path: Path, **keys: Any) -> Split:
    return load(data_config(path, **keys), source=None, cache=path.parent / "cache")


def refusal(path: Path, **keys: Any) -> str:
    """Return the message with which loading is refused, which must be one line."""
    with pytest.raises(DataError) as error:
        load_split(path, **keys)
    assert "\n" not in str(error.value)
    return str(error.value)


def pairs(part: PairRows) -> list[tuple[str, str]]:
    """Return (question, answer) of each row."""
    return list(zip(part.questions, part.answers, strict=True))
