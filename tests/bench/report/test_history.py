"""`bench.report --history`: ratios to a reference by version of the code, and their changes."""

import json
import random
import re
from types import MappingProxyType

import pytest
from click.testing import CliRunner

from bench.common.errors import InputError
from bench.report.__main__ import main
from bench.report.history import write_history
from tests.bench.browsing import PHONE, WIDE, open_quietly
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import cell, failed_row, result_row, write_rows
from tests.hostile import TEXTS

FULL, LORA = ("full", None, None, "off"), ("lora", 8, "attn", "bf16")
SETTINGS = (FULL, LORA, ("head", None, None, "off"), ("dora", 1, "all-lin-only", "off"))


def name_of(version):
    """A name whose order is not that of versions."""
    return f"0.1.0+g{version * 7919 % 10007:010d}"


EARLY = [name_of(version) for version in range(4)]


def runs(versions, factors=MappingProxyType({}), since=0, settings=SETTINGS, repeats=2):
    """Repeats of each setting by version; from one on, columns have the factors of a setting."""
    noise, rows = random.Random(7), []  # noqa: S311
    for version in range(versions):
        for axes in settings:
            for repeat in range(1, repeats + 1):
                row = result_row(
                    cell(*axes), noise, activations_mib=400.0, dev_score=0.5, step_gflop=8.0
                )
                row |= {
                    "repeat": repeat, "code_version": name_of(version),
                    "started_at": f"2026-11-{1 + version:02}T10:0{repeat}:00Z",
                }  # fmt: skip
                for column, changed in factors.items() if version >= since else ():
                    row |= {column: changed.get(axes, 1.0) * row[column]}
                rows.append(row)
    return rows


def history(rows, folder):
    return write_history(list(rows), folder, ["runs.csv"])[1]


def test_pages_and_findings_follow_from_the_rows(tmp_path):
    """Exact measures, whose texts do not depend on noise; that of time is below."""
    halves = {name: {LORA: 0.5} for name in ("activations_mib", "peak_rss_mib", "step_gflop")}
    stepped = dict.fromkeys(SETTINGS, 1.021) | {LORA: 1.019, FULL: 1.0}
    every = runs(12)
    failed = [
        failed_row(row.cell, "oom", "no memory", code_version=row.code_version,
                   started_at=row.started_at, repeat=row.repeat)
        if row.code_version == name_of(2) and row.mode == "full" else row
        for row in every
    ]  # fmt: skip
    scarce = [row for row in runs(8) if row.mode != "full" or row.code_version in EARLY]
    scarce = [row for row in scarce if row.mode != "head" or row.code_version != name_of(7)]
    away = {"conditions_id": "other", "machine": "EPYC, 64 cores", "finished_at": "2027-01-01"}
    older = [
        row | {"activations_mib": None} if row.code_version in EARLY else row for row in runs(9)
    ]
    small = [row | {"step_gflop": 1.0 if row.mode == "head" else 321.0} for row in runs(1)]
    parts: dict[str, object] = {}
    for title, rows in {
        "the reference changes": runs(8, {"activations_mib": {FULL: 1.25}}, 4),
        "three measures of a setting": runs(7, halves, 3),
        "steps below 2% are left out": runs(8, {"activations_mib": stepped}, 4),
        "a score": runs(9, {"dev_score": {LORA: 0.96}}, 5),
        "a version without the reference": failed,
        "another reference": scarce,
        "one version": runs(1),
        "two versions": runs(2, {"ms_per_1k_tokens": {LORA: 0.5}}, 1),
        "the order is that of the first cells": list(reversed(runs(7))),
        "another machine": [*runs(7), *(row | away for row in runs(3))],
        "a measure that older rows lack": older,
        "small ratios": small,
    }.items():
        data = history(rows, tmp_path)
        values = [row for row in data["series"] if row["measure"] == "activations_mib"]
        named = [one["version"] for one in data["versions"]]
        parts[title] = [
            data["reference"], *data["findings"], f"Versions: {named}",
            f"Not comparable: {data['not_comparable']}", *map(json.dumps, values),
            (tmp_path / "history.md").read_text("utf-8"),
        ]  # fmt: skip
    check_snapshot("history", parts)


def test_a_slower_setting_is_found_and_a_machine_that_gets_slower_is_no_change(tmp_path):
    slower, every = {LORA: 1.1}, dict.fromkeys(SETTINGS, 1.3)
    data = history(runs(12, {"ms_per_1k_tokens": slower}, 7, repeats=4), tmp_path)
    (change,) = data["changes"]
    assert (change["setting"], change["measure"], change["since"]) == (
        "lora rank 8 on attn, bf16", "ms_per_1k_tokens", name_of(7),
    )  # fmt: skip
    assert change["effect"] == pytest.approx(1.1, abs=0.04)
    assert change["after"] == pytest.approx(change["before"] * change["effect"])
    assert name_of(7) in (tmp_path / "history.html").read_text("utf-8")
    data = history(runs(12, {"ms_per_1k_tokens": every}, 6), tmp_path)
    assert data["findings"] == ["No change in 4 settings over 12 versions of the code."]
    times = [s for s in data["series"] if s["measure"] == "ms_per_1k_tokens"]
    assert len(times) == 3, "the reference's own time is not shown"
    assert not any(series["absolute"] for series in times)


@pytest.mark.parametrize("lacking", ["full", "lora"])
def test_ratios_are_paired_by_repeat(tmp_path, lacking):
    times = {("full", 1): 2.0, ("lora", 1): 3.0}
    data = history([
        row | {"ms_per_1k_tokens": times.get((row.mode, row.repeat), 10.0)}
        for row in runs(1, settings=(FULL, LORA)) if (row.mode, row.repeat) != (lacking, 2)
    ], tmp_path)  # fmt: skip
    (series,) = [s for s in data["series"] if s["measure"] == "ms_per_1k_tokens"]
    assert list(series["values"]) == pytest.approx([1.5])


def test_the_command_prints_findings_or_json(tmp_path):
    path, out = tmp_path / "a.csv", tmp_path / "out"
    write_rows(path, runs(8))
    words = ["--history", "--runs", str(path), "--reports", str(out)]
    for option in (["--final"], ["--test", "x.csv"], ["--code-version", "0.1.0"]):
        with pytest.raises(InputError, match=f"^--history.*{option[0]}"):
            main.main([*words, *option], standalone_mode=False)
    for rows in ([], [failed_row(cell(*FULL), "oom", "no memory")]):
        with pytest.raises(InputError, match=r"^runs\.csv: no cell ended ok"):
            history(rows, out)
    assert not out.exists()
    first, second = (
        CliRunner().invoke(main, [*words, *more], standalone_mode=False, catch_exceptions=False)
        for more in ([], ["--json"])
    )
    assert first.stdout.splitlines() == [
        "No change in 4 settings over 8 versions of the code.",
        f"history: {out / 'history.html'}",
    ]
    stored = json.loads((out / "history.json").read_text("utf-8"))
    assert json.loads(second.stdout) == stored | {"page": str(out / "history.html")}
    assert {path.name for path in out.iterdir()} == {
        "history", "history.html", "history.json", "history.md"
    }  # fmt: skip


def test_hostile_names_are_text(tmp_path, browser, drawn):
    names = dict(zip(map(name_of, range(6)), TEXTS, strict=False))
    rows = [
        row | {"code_version": names[row.code_version], "grid": TEXTS[0], "task": TEXTS[0],
               "device_name": TEXTS[1], "machine": TEXTS[2], "model": TEXTS[4]}
        for row in runs(6)
    ]  # fmt: skip
    page, _ = write_history(rows, tmp_path, TEXTS)
    rest = re.sub(r"<style.*?</style>", "", page.read_text("utf-8"), flags=re.DOTALL)
    assert not re.search("<script|<img", rest)
    assert not {char for char in rest if not char.isprintable()} - {"\n"}
    for figure in (tmp_path / "history").iterdir():
        assert "<script" not in figure.read_text("utf-8")
    for size in (WIDE, PHONE):
        opened = open_quietly(browser, page, size)
        assert opened.evaluate("window.pwned") is None
        opened.close()
