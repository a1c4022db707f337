"""Small files that stand for a lot of data are refused with a line, in little memory."""

import re
import subprocess
import sys
from pathlib import Path

from tests.bench.examples.tables import need_data, write_parquet

ROOT = Path(__file__).parents[3]
READ = """
import os, re, resource, sys
from pathlib import Path
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
import datasets, pyarrow.parquet
from bench.examples import arrow
from bench.common.errors import InputError
from bench.examples.reading import training_tables
from bench.plan.dataset import DataSpec
arrow._SMALL //= 8
arrow._ROOM //= 8
limit, *paths = sys.argv[1:]
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
if limit == "limited":
    resource.setrlimit(resource.RLIMIT_AS, (used + 2**30, used + 2**30))
for path in paths:
    try:
        for _ in training_tables(DataSpec(path=path))[0].read(["text"]):
            pass
        print("read")
    except InputError as error:
        print(error)
print(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])
"""
MOST_MIB = 64  # of memory that a step of reading a small file may take here, an eighth of the usual


def read_apart(limit, *paths):
    argv = [sys.executable, "-c", READ, limit, *map(str, paths)]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, cwd=ROOT)
    *lines, peak = done.stdout.splitlines()
    return lines, int(peak)


def bombs(folder):
    """Files, each with a part of the reason why it is refused."""
    import pyarrow as pa
    from pyarrow import parquet

    rows = 130
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * rows), pa.array(["x" * 450_000]))
    columns = {
        "dictionary": repeated,
        "lists": pa.ListArray.from_arrays(pa.array(range(0, rows + 1, 2), pa.int32()), repeated),
        "compressed": pa.array([f"{i:06}{'x' * 200_000}" for i in range(175)]),
        "numbers": pa.array([0] * 5_000_000, pa.int8()),
        "one": pa.array(["x" * 2_000_000]),
    }
    for kind, column in columns.items():
        path = folder / f"{kind}.parquet"
        options = {"compression": "zstd", "use_dictionary": kind != "compressed"}
        parquet.write_table(pa.table({"text": column}), path, **options)
        text = "a text has over 1,048,576 characters"
        yield path, text if kind == "one" else "so this is no data set"


def test_a_small_file_of_many_values_is_a_line(tmp_path):
    need_data()
    paths, reasons = zip(*bombs(tmp_path), strict=True)
    assert all(path.stat().st_size < 2**23 for path in paths)
    lines, _ = read_apart("limited", *paths)
    for line, reason in zip(lines, reasons, strict=True):
        assert reason in line


def compressed_folder(folder):
    """A folder as `datasets` saves it, but for the compression: 20 kB for 400 MB of texts."""
    import datasets
    import pyarrow as pa

    datasets.Dataset.from_dict({"text": ["x"]}).save_to_disk(folder)
    [path], options = folder.glob("*.arrow"), pa.ipc.IpcWriteOptions(compression="zstd")
    part = pa.record_batch({"text": pa.array(["x" * 500_000] * 75 * 2)})
    with pa.ipc.new_stream(str(path), part.schema, options=options) as file:
        for _ in range(10):
            file.write_batch(part)
    return folder


def lying_footer(folder):
    """A Parquet file with a page of 128 MB, whose footer has sizes of a few bytes."""
    import pyarrow as pa
    from pyarrow import parquet

    def varint(number):
        groups = [number >> shift & 127 for shift in range(0, number.bit_length(), 7)]
        return bytes([*(group | 128 for group in groups[:-1]), groups[-1]])

    path = folder / "lying.parquet"
    table = pa.table({"text": pa.array(["x" * 1_000_000] * 128)})
    options = {"compression": "zstd", "use_dictionary": False, "data_page_size": 2**31 - 1}
    parquet.write_table(table, path, **options)
    size = parquet.read_metadata(path).row_group(0).column(0).total_uncompressed_size
    content, true = path.read_bytes(), varint(2 * size)  # signed numbers are doubled
    assert content.count(true) == 2  # that of the column and that of the group
    path.write_bytes(content.replace(true, bytes([128 | 40, *[128] * (len(true) - 2), 0])))
    assert parquet.read_metadata(path).row_group(0).column(0).total_uncompressed_size == 20
    return path


def test_memory_is_limited_while_a_library_reads(tmp_path):
    need_data()
    write_parquet(tmp_path / "small.parquet", {"text": ["a"]})
    _, usual = read_apart("", tmp_path / "small.parquet")
    for path in (compressed_folder(tmp_path / "saved"), lying_footer(tmp_path)):
        [line], peak = read_apart("", path)
        assert peak < usual + 2 * MOST_MIB * 2**10
        assert re.fullmatch(
            rf"{path}: can't be read \([\d,]+ bytes take over {MOST_MIB} MiB of memory at once; "
            r"write the texts as CSV or JSON lines\)",
            line,
        )


def test_mapped_files_take_none_of_the_limit(tmp_path):
    need_data()
    import datasets

    rows = datasets.Dataset.from_dict({"text": ["x" * 100_000] * 13})
    datasets.concatenate_datasets([rows] * 60).save_to_disk(tmp_path)
    assert read_apart("", tmp_path)[0] == ["read"]
