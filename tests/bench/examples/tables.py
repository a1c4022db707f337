"""Files of examples in every format, for tests of reading."""

import csv
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from bench.examples.reading import ReadData, read
from bench.plan.dataset import DataSpec
from tests.components import COMPONENTS, need

TOPICS: Mapping[str, Sequence[Any]] = {
    "text": ["a goal", "shares fall", "a new film", "late winner", "rates rise", "a sequel"],
    "label": ["sport", "money", "film", "sport", "money", "film"],
}


def need_data() -> None:
    found = all(find_spec(name) is not None for name in ("pyarrow", "datasets"))
    need(found, COMPONENTS["data"], component="data")


def write_csv(path: Path, columns: Mapping[str, Sequence[Any]], delimiter: str = ",") -> Path:
    """Columns as a CSV file; None becomes an empty field."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))
    return path


def write_json_lines(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    rows = zip(*columns.values(), strict=True)
    lines = [json.dumps(dict(zip(columns, row, strict=True))) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_parquet(path: Path, columns: Mapping[str, Sequence[Any]]) -> Path:
    import pyarrow as pa
    from pyarrow import parquet

    parquet.write_table(pa.table(dict(columns)), path)
    return path


def read_file(path: Path | str, **settings: Any) -> ReadData:
    return read(DataSpec(path=str(path), **settings))


def named_labels(data: ReadData) -> list[str]:
    return [data.spec.classes[label] for label in data.examples.labels]
