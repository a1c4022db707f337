"""`bench.report --history`: ratios to a reference by version of the code, and their changes."""

import json
import random
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from bench.analysis.comparison import MEASURES
from bench.common.errors import InputError
from bench.plan.columns import NAMES
from bench.plan.rows import Row
from bench.report.__main__ import main
from bench.report.drawing import Drawing
from bench.report.history import write_history
from bench.results.rowfile import encode, record
from tests.bench.report.test_browser import PHONE, WIDE, open_page
from tests.bench.synthetic_rows import cell, failed_row, result_row
from tests.hostile import TEXTS

FULL, LORA = ("full", None, None, "off"), ("lora", 8, "attn", "bf16")
SETTINGS = (FULL, LORA, ("head", None, None, "off"), ("dora", 1, "all-lin-only", "off"))
KEPT = next(one.label for one in MEASURES if one.column == "activations_mib")
DRAWING, NO_PICTURE = "bench.report.history._drawing", Drawing("x", "<svg/>", "", "")
Change = Callable[[int, tuple[Any, ...]], dict[str, float]]


def no_change(_version: int, _axes: tuple[Any, ...]) -> dict[str, float]:
    return {}


def name_of(version: int) -> str:
    """A name whose order is not that of versions."""
    return f"0.1.0+g{version * 7919 % 10007:010d}"


EARLY = [name_of(version) for version in range(4)]


def runs(
    versions: int, factors: Change = no_change, settings: Any = SETTINGS, repeats: int = 2
) -> list[Row]:
    """Repeats of each setting by version; `factors` are of a version's and setting's values."""
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
                for column, factor in factors(version, axes).items():
                    row |= {column: factor * row[column]}
                rows.append(row)
    return rows


def outcome(rows: Iterable[Row], folder: Path, *, pictures: bool = False) -> dict[str, Any]:
    """The data of the pages; without pictures, which take most of the time, unless they matter."""
    with pytest.MonkeyPatch.context() as patch:
        if not pictures:
            patch.setattr(DRAWING, lambda *_: NO_PICTURE)
        return write_history(list(rows), folder, ["runs.csv"])[1]


def test_a_slower_setting_is_found_at_its_version(tmp_path: Path) -> None:
    def slower(version: int, axes: tuple[Any, ...]) -> dict[str, float]:
        return {"ms_per_1k_tokens": 1.1 if version >= 7 and axes == LORA else 1.0}

    data = outcome(runs(12, slower, repeats=4), tmp_path)
    (change,) = data["changes"]
    assert (change["setting"], change["measure"]) == (
        "lora rank 8 on attn, bf16",
        "ms_per_1k_tokens",
    )
    assert change["since"] == name_of(7)
    assert change["effect"] == pytest.approx(1.1, abs=0.04)
    assert change["after"] == pytest.approx(change["before"] * change["effect"])
    assert data["findings"][0].startswith("1 change, in 1 of 4 settings, over 12 versions")
    assert data["findings"][1].startswith(
        f"lora rank 8 on attn, bf16 against full, fp32, since {name_of(7)}: time 0."
    )
    for page in ("history.html", "history.md"):
        assert name_of(7) in (tmp_path / page).read_text("utf-8")


def test_a_machine_that_gets_slower_changes_nothing(tmp_path: Path) -> None:
    def elsewhen(version: int, _axes: tuple[Any, ...]) -> dict[str, float]:
        return {"ms_per_1k_tokens": 1.3 if version >= 6 else 1.0}

    data = outcome(runs(12, elsewhen), tmp_path)
    assert data["changes"] == []
    assert data["findings"] == ["No change in 4 settings over 12 versions of the code."]
    times = [s for s in data["series"] if s["measure"] == "ms_per_1k_tokens"]
    assert len(times) == 3, "the reference's own time is not shown"
    assert not any(series["absolute"] for series in times)


def test_a_reference_that_changes_is_named_once_and_not_each_ratio_to_it(tmp_path: Path) -> None:
    def larger(version: int, axes: tuple[Any, ...]) -> dict[str, float]:
        return {"activations_mib": 1.25 if version >= 4 and axes == FULL else 1.0}

    data = outcome(runs(8, larger), tmp_path)
    assert len(data["changes"]) == 4
    assert data["findings"][1:] == [
        f"full, fp32, since {name_of(4)}: {KEPT} 500 MiB (was 400 MiB).",
        f"All others against full, fp32, which itself changed, since {name_of(4)}: {KEPT} is "
        "0.80× what it was.",
    ]


def test_changes_of_one_setting_at_one_version_are_one_sentence(tmp_path: Path) -> None:
    def smaller(version: int, axes: tuple[Any, ...]) -> dict[str, float]:
        factor = 0.5 if version >= 3 and axes == LORA else 1.0
        return {"activations_mib": factor, "peak_rss_mib": factor, "step_gflop": factor}

    data = outcome(runs(7, smaller), tmp_path)
    assert len(data["changes"]) == 3
    (line,) = data["findings"][1:]
    assert line.startswith(f"lora rank 8 on attn, bf16 against full, fp32, since {name_of(3)}: ")
    assert line.count("(was ") == 3


def test_small_steps_of_exact_measures_are_left_out(tmp_path: Path) -> None:
    def stepped(version: int, axes: tuple[Any, ...]) -> dict[str, float]:
        size = {LORA: 1.019, FULL: 1.0}.get(axes, 1.021)
        return {"activations_mib": size if version >= 4 else 1.0}

    changes = outcome(runs(8, stepped), tmp_path)["changes"]
    assert {change["setting"] for change in changes} == {
        "head, fp32", "dora rank 1 on all-lin-only, fp32"
    }  # fmt: skip


def test_a_score_is_a_difference(tmp_path: Path) -> None:
    def worse(version: int, axes: tuple[Any, ...]) -> dict[str, float]:
        return {"dev_score": 0.96 if version >= 5 and axes == LORA else 1.0}

    (change,) = outcome(runs(9, worse), tmp_path)["changes"]
    assert change["measure"] == "dev_score"
    assert change["effect"] == pytest.approx(-0.02)
    assert "dev score −0.020 (was +0.000)." in (tmp_path / "history.md").read_text("utf-8")


@pytest.mark.parametrize("lacking", ["full", "lora"])
def test_ratios_are_paired_by_repeat(tmp_path: Path, lacking: str) -> None:
    def of_repeats(rows: list[Row], factor: float) -> list[Row]:
        return [row | {"ms_per_1k_tokens": factor if row.repeat == 1 else 10.0} for row in rows]

    rows = [row for row in runs(1, settings=(FULL, LORA)) if (row.mode, row.repeat) != (lacking, 2)]
    full = of_repeats([row for row in rows if row.mode == "full"], 2.0)
    lora = of_repeats([row for row in rows if row.mode == "lora"], 3.0)
    data = outcome([*full, *lora], tmp_path)
    (series,) = [s for s in data["series"] if s["measure"] == "ms_per_1k_tokens"]
    assert list(series["values"]) == pytest.approx([1.5])


def test_small_ratios_have_three_digits(tmp_path: Path) -> None:
    rows = [row | {"step_gflop": 1.0 if row.mode == "head" else 321.0} for row in runs(1)]
    outcome(rows, tmp_path)
    assert "| head, fp32 | 0.00312× |" in (tmp_path / "history.md").read_text("utf-8")


def test_versions_without_the_reference_are_not_comparable(tmp_path: Path) -> None:
    rows = [
        failed_row(row.cell, "oom", "no memory", code_version=row.code_version,
                   started_at=row.started_at, repeat=row.repeat)
        if row.code_version == name_of(2) and row.mode == "full" else row
        for row in runs(12)
    ]  # fmt: skip
    data = outcome(rows, tmp_path)
    assert data["reference"] == "full, fp32"
    assert data["not_comparable"] == [name_of(2)]
    assert name_of(2) not in [version["version"] for version in data["versions"]]
    assert f"full, fp32 is missing: {name_of(2)}." in (tmp_path / "history.md").read_text("utf-8")


def test_without_full_fine_tuning_the_most_frequent_setting_is_the_reference(
    tmp_path: Path,
) -> None:
    rows = [row for row in runs(8) if row.mode != "full" or row.code_version in EARLY]
    rows = [row for row in rows if row.mode != "head" or row.code_version != name_of(7)]
    data = outcome(rows, tmp_path, pictures=True)
    assert data["reference"] == "lora rank 8 on attn, bf16"
    assert len(data["versions"]) == 8
    assert "ratio to lora rank 8 on attn, bf16" in (tmp_path / "history.html").read_text("utf-8")


@pytest.mark.parametrize(("versions", "named"), [(1, "1 version"), (2, "2 versions")])
def test_few_versions_are_shown_without_changes(tmp_path: Path, versions: int, named: str) -> None:
    def faster(version: int, axes: tuple[Any, ...]) -> dict[str, float]:
        return {"ms_per_1k_tokens": 0.5 if version and axes == LORA else 1.0}

    data = outcome(runs(versions, faster), tmp_path, pictures=True)
    assert data["changes"] == []
    assert data["findings"] == [
        f"Only {named} of the code: a change takes at least 3 before it and 3 after it to be seen."
    ]
    assert len(list((tmp_path / "history").glob("*.svg"))) == 5


def test_versions_are_in_the_order_of_their_first_cells(tmp_path: Path) -> None:
    rows = runs(7)
    data = outcome(reversed(rows), tmp_path)
    assert [v["version"] for v in data["versions"]] == [name_of(i) for i in range(7)]


def test_the_group_with_most_versions_is_shown_and_others_are_named(tmp_path: Path) -> None:
    other = [
        row | {"conditions_id": "other", "machine": "EPYC, 64 cores",
               "finished_at": "2027-01-01T00:00:00Z"} for row in runs(3)
    ]  # fmt: skip
    data = outcome([*runs(7), *other], tmp_path)
    assert len(data["versions"]) == 7
    assert "(other machine)" in (tmp_path / "history.md").read_text("utf-8")


def test_rows_of_older_schemas_lack_a_measure(tmp_path: Path) -> None:
    rows = [
        row | {"activations_mib": None} if row.code_version in EARLY else row
        for row in runs(9)
    ]  # fmt: skip
    data = outcome(rows, tmp_path)
    kept = [s for s in data["series"] if s["measure"] == "activations_mib"]
    assert len(kept) == 4
    assert all(list(s["values"][:4]) == [None] * 4 and None not in s["values"][4:] for s in kept)


def test_without_a_cell_that_ended_ok_nothing_is_written(tmp_path: Path) -> None:
    out = tmp_path / "out"
    for rows in ([], [failed_row(cell(*FULL), "oom", "no memory")]):
        with pytest.raises(InputError, match=r"^runs\.csv: no cell ended ok"):
            write_history(rows, out, ["runs.csv"])
    assert not out.exists()


def written(rows: Iterable[Row], path: Path) -> Path:
    path.write_bytes(record(NAMES) + b"".join(map(encode, rows)))
    return path


def test_the_command_prints_findings_or_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(DRAWING, lambda *_: NO_PICTURE)
    path, out = written(runs(8), tmp_path / "a.csv"), tmp_path / "out"
    words = ["--history", "--runs", str(path), "--reports", str(out)]
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


@pytest.mark.parametrize("option", [["--final"], ["--test", "x.csv"], ["--code-version", "0.1.0"]])
def test_options_that_do_not_go_together_are_refused(tmp_path: Path, option: list[str]) -> None:
    path, out = written(runs(1), tmp_path / "a.csv"), tmp_path / "out"
    arguments = ["--history", *option, "--runs", str(path), "--reports", str(out)]
    with pytest.raises(InputError, match=f"^--history.*{option[0]}"):
        main.main(arguments, standalone_mode=False)
    assert not out.exists()


def hostile() -> list[Row]:
    """Rows of several versions of the code, whose texts are markup, formulas and commands."""
    texts = iter(TEXTS)
    names = {name_of(i): next(texts) for i in range(6)}
    return [
        row | {"code_version": names[row.code_version], "grid": TEXTS[0], "task": TEXTS[0],
               "device_name": TEXTS[1], "machine": TEXTS[2], "model": TEXTS[4]}
        for row in runs(6)
    ]  # fmt: skip


def test_hostile_names_are_text(tmp_path: Path, browser: Any) -> None:
    page, _ = write_history(hostile(), tmp_path, TEXTS)
    html = page.read_text("utf-8")
    rest = re.sub(r"<style.*?</style>", "", html, flags=re.DOTALL)
    assert "<script" not in rest
    assert "<img" not in rest
    assert not {char for char in rest if not char.isprintable()} - {"\n"}
    for figure in (tmp_path / "history").iterdir():
        assert "<script" not in figure.read_text("utf-8")
    opened = open_page(browser, page, WIDE)
    assert opened.evaluate("window.pwned") is None
    assert opened.complaints == []
    opened.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_history(runs(8), tmp_path_factory.mktemp("history"), ["runs.csv"])[0]


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_the_page_opens_quietly_offline_and_nothing_sticks_out(
    page: Path, browser: Any, size: dict[str, int]
) -> None:
    opened = open_page(browser, page, size)
    assert opened.complaints == []
    assert [url for url in opened.asked if not url.startswith(("file:", "data:"))] == []
    assert opened.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert len(opened.query_selector_all("main figure svg")) == 5
    opened.close()
