"""Small files that stand for a lot of data are refused with a line, in little memory."""

import subprocess
import sys
from pathlib import Path

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
for path in sys.argv[1:]:
    try:
        for _ in table_of_texts(Path(path)).read(["text"]):
            pass
        print("read")
    except InputError as error:
        print(error)
"""


def bomb(kind: str, folder: Path) -> Path:
    """A small file with a large table."""
    import pyarrow as pa
    from pyarrow import parquet

    long, rows, path = "x" * 450_000, 1000, folder / f"{kind}.parquet"
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * rows), pa.array([long]))
    if kind == "csv":
        path = path.with_suffix(".csv")
        path.write_text('text,label\n"' + "long line\n" * 500_000 + '",x\n')
        return path
    columns = {
        "dictionary": repeated,
        "lists": pa.ListArray.from_arrays(pa.array(range(0, rows + 1, 2), pa.int32()), repeated),
        "compressed": pa.array([f"{i:06}{'x' * 200_000}" for i in range(1400)]),
        "numbers": pa.array([0] * 40_000_000, pa.int8()),
        "one": pa.array(["x" * 2_000_000]),
    }
    table = pa.table({"text": columns[kind]})
    parquet.write_table(table, path, compression="zstd", use_dictionary=kind != "compressed")
    return path


EXPANDS = "so this is no data set"
REASONS = {
    "dictionary": EXPANDS,
    "lists": EXPANDS,
    "compressed": EXPANDS,
    "numbers": EXPANDS,
    "one": "a text has over 1,048,576 characters",
    "csv": "line 2: a row has over 1,048,576 characters",
}


def test_a_small_file_of_many_values_is_a_line(tmp_path: Path) -> None:
    need_data()
    paths = [bomb(kind, tmp_path) for kind in REASONS]
    assert all(path.stat().st_size < 2**23 for path in paths)
    done = subprocess.run(
        [sys.executable, "-c", READ, *paths], capture_output=True, text=True, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-500:]
    lines = dict(zip(REASONS, done.stdout.splitlines(), strict=True))
    for kind, reason in REASONS.items():
        assert reason in lines[kind], lines[kind]
