"""Two files of 100,000 rows: read, compared and written."""

import csv
import resource

from bench.compare.__main__ import command


def write_slower(rows, path):
    """Write rows of which each takes a tenth more time."""
    with rows.open(newline="") as source, path.open("w", newline="") as copy:
        reader, writer = csv.reader(source), csv.writer(copy)
        names = next(reader)
        writer.writerow(names)
        at = names.index("ms_per_1k_tokens")
        for row in reader:
            row[at] = str(1.1 * float(row[at])) if row[at] else ""
            writer.writerow(row)


def test_compare_two_files_of_100_000_rows(benchmark, tmp_path, many):
    new = tmp_path / "new.csv"
    write_slower(many, new)

    def compared():
        words = [str(many), str(new), "--reports", str(tmp_path)]
        code = command.main(words, standalone_mode=False)
        assert isinstance(code, int)
        return code

    assert benchmark.pedantic(compared, rounds=1) == 1
    benchmark.extra_info["peak_rss_mib"] = round(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    )
