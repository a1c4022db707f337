"""Small files that stand for a lot of data are refused with a line, in little memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.examples.tables import need_data

ROOT = Path(__file__).parents[3]
READ = """
import resource, sys
from pathlib import Path
import datasets, pyarrow.parquet
from bench.common.errors import InputError
from bench.examples.sources import table_of_texts

used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
try:
    table = table_of_texts(Path(sys.argv[1]))
    for _ in table.read(sys.argv[2:]):
        pass
    print("read")
except InputError as error:
    print(error)
"""


def bomb(kind: str, folder: Path) -> Path:
    """A small file with a large table."""
    import pyarrow as pa
    from pyarrow import parquet

    long, rows, path = "x" * 450_000, 10_000, folder / f"{kind}.parquet"
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * rows), pa.array([long]))
    if kind == "csv":
        path = path.with_suffix(".csv")
        path.write_text('text,label\n"' + "long line\n" * 500_000 + '",x\n')
        return path
    columns = {
        "dictionary": repeated,
        "lists": pa.ListArray.from_arrays(pa.array(range(0, rows + 1, 2), pa.int32()), repeated),
        "compressed": pa.array([f"{i:06}{'x' * 200_000}" for i in range(2000)]),
        "numbers": pa.array([0] * 40_000_000, pa.int8()),
        "one": pa.array(["x" * 2_000_000]),
    }
    table = pa.table({"text": columns[kind]})
    parquet.write_table(table, path, compression="zstd", use_dictionary=kind != "compressed")
    return path


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("dictionary", "so this is no data set"),
        ("lists", "so this is no data set"),
        ("compressed", "so this is no data set"),
        ("numbers", "so this is no data set"),
        ("one", "a text has over 1,048,576 characters"),
        ("csv", "line 2: a row has over 1,048,576 characters"),
    ],
)
def test_a_small_file_of_many_values_is_a_line(tmp_path: Path, kind: str, reason: str) -> None:
    need_data()
    path = bomb(kind, tmp_path)
    assert path.stat().st_size < 2**23
    done = subprocess.run(
        [sys.executable, "-c", READ, path, "text"],
        capture_output=True, text=True, check=False, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.count("\n") == 1
    assert reason in done.stdout
