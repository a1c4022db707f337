"""A comparison in pieces: what has run is kept, and only what is missing runs."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.peers.compiling import STEPS
from bench.peers.kept import Kept
from bench.peers.outcome import compare
from bench.peers.rows import Attempt, missing_rounds
from bench.peers.session import Comparison
from minbert.data.tasks import load_task
from tests.adapters.small import need_peft
from tests.bench.peer_cells import EXAMPLES, cell
from tests.bench.peers.test_command import comparison, run

VERSIONS = {"peft": "1"}


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path / "locks"))


@pytest.fixture
def of(tiny_checkpoint: Path) -> Comparison:
    return comparison(tiny_checkpoint, "alike")


def attempt(of: Comparison, side: str, turn: str = "a-0", **changes) -> Attempt:
    values = {"cell": of.cells[0], "side": side, "round": turn, "status": "ok"}
    return Attempt(**{**values, **changes})


def kept(path: Path | None, of: Comparison, **changes) -> Kept:
    return Kept(path, replace(of, **changes), VERSIONS)


def sides_run(err: str) -> list[str]:
    """The sides of the processes that ran, of those that progress told of."""
    return [line.split(": ")[1].split(",")[0] for line in err.splitlines() if "round" in line]


def test_pieces_come_together_in_one_csv(
    of: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, table = tmp_path / "x.jsonl", tmp_path / "x.csv"
    piece = {"runs": file, "csv_file": table}
    assert run(replace(of, cells=of.cells[1:], sides=("ours", "default")), **piece) == 0
    assert sides_run(capsys.readouterr().err) == ["ours", "default", "default", "ours"]
    assert run(replace(of, cells=of.cells[1:], started="b"), **piece) == 0
    assert sides_run(capsys.readouterr().err) == ["ours", "grouped", "grouped", "ours"]
    assert run(replace(of, cells=of.cells[:1], started="c"), **piece) == 0
    capsys.readouterr()
    assert run(of, **piece) == 0
    shown = capsys.readouterr()
    assert sides_run(shown.err) == []
    assert of.conditions.code_version in shown.out.replace("\n", " ")
    rows = list(csv.DictReader(table.open(newline="")))
    assert [(row["mode"], row["side"], row["rounds"]) for row in rows] == [
        ("lora", "ours", "2"), ("lora", "default", "2"), ("lora", "grouped", "2"),
        ("full", "ours", "4"), ("full", "default", "2"), ("full", "grouped", "2"),
    ]  # fmt: skip
    assert all(row["time_ratio"] for row in rows if row["side"] != "ours")


def test_each_side_has_the_environment_that_it_should(
    of: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    file = tmp_path / "x.jsonl"
    sides = ("ours", "default", "grouped", "compiled")
    assert run(replace(of, cells=of.cells[:1], rounds=1, sides=sides), runs=file) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["side"]: line["answer"]["tuned"] for line in lines} == {
        "ours": True, "default": False, "grouped": True, "compiled": True,
    }  # fmt: skip


def test_each_side_sees_exactly_the_gpu(of: Comparison, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    there = replace(of.conditions, device="cuda:1")
    on_gpu = replace(of, conditions=there, device_name="GPU-1", cells=of.cells[:1], rounds=1)
    assert run(on_gpu, runs=file) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["side"] for line in lines} == {"ours", "default", "grouped"}
    assert all(line["answer"]["gpu"] == ["GPU-1", "cuda:0"] for line in lines)


def test_whole_cells_have_all_of_the_cache_but_token_ids(
    of: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vader", "tokens"):
        (tmp_path / "cache" / name).mkdir(parents=True)
    file = tmp_path / "x.jsonl"
    cells = [replace(of.cells[0], max_steps=7)]
    whole = replace(
        of, cells=cells, rounds=1, whole=True, sides=("ours", "trainer"), worker=of.process
    )
    need_peft()
    examples = load_task("movies", **EXAMPLES)
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    assert compare(whole, examples, runs=file) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["answer"]["cache"] for line in lines] == ["vader", "vader"]


def test_what_failed_runs_again(
    of: Comparison, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.jsonl"
    assert run(comparison(tiny_checkpoint, "crash"), runs=file) == 1
    assert {json.loads(line)["side"] for line in file.read_text().splitlines()} == {"ours"}
    capsys.readouterr()
    assert run(replace(of, started="b"), runs=file, as_json=True) == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["ok"] * 6


def test_a_round_counts_if_ours_took_its_turn(of: Comparison) -> None:
    had = [attempt(of, "ours", "a-0"), attempt(of, "ours", "b-0"), attempt(of, "default", "a-0")]
    first, _ = of.cells
    assert missing_rounds(had, first, "default", 2) == 1
    assert missing_rounds([*had, attempt(of, "default", "a-1")], first, "default", 2) == 1
    assert missing_rounds([*had, attempt(of, "default", "b-0")], first, "default", 2) == 0
    assert missing_rounds(had, first, "grouped", 2) == 2
    left_out = attempt(of, "compiled", status="not compiled")
    assert missing_rounds([*had, left_out], first, "compiled", 2) == 0


def test_only_what_is_comparable_counts(of: Comparison, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    kept(file, of).add(attempt(of, "ours"))
    assert kept(file, of).attempts(of.sides) == [attempt(of, "ours")]
    for other in (
        {"loss_steps": 9}, {"budget_s": 5.0}, {"whole": True}, {"cells": of.cells[1:]},
        {"conditions": replace(of.conditions, threads=7)},
    ):  # fmt: skip
        assert kept(file, of, **other).attempts(of.sides) == []
    assert Kept(file, of, {"peft": "2"}).attempts(of.sides) == []
    assert kept(file, of).attempts(("default",)) == []
    assert kept(file, of, rounds=9, started="c").attempts(of.sides)


def test_more_time_for_compiling_is_another_try(of: Comparison, tmp_path: Path) -> None:
    file, status = tmp_path / "x.jsonl", "not compiled"
    left_out = attempt(of, "compiled", status=status, answer={"compile_timeout_s": 60.0})
    kept(file, of).add(left_out)
    assert kept(file, of, compile_timeout_s=60.0).attempts(["compiled"]) == [left_out]
    assert kept(file, of, compile_timeout_s=61.0).attempts(["compiled"]) == []
    assert kept(file, of, compile_timeout_s=None).attempts(["compiled"]) == []


@pytest.mark.parametrize(("steps", "left"), [(STEPS - 1, True), (STEPS, False)])
def test_a_process_ends_where_its_first_steps_take_too_long(
    tmp_path: Path, steps: int, left: bool
) -> None:
    code = (
        "import sys, time; from pathlib import Path; "
        "from bench.peers.compiling import CompileLimit; "
        f"limit = CompileLimit(Path({str(tmp_path)!r}), 0.5); limit.begin(); "
        f"[limit.step() for _ in range({steps})]; time.sleep(1.5); sys.exit(7)"
    )
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == (0 if left else 7)
    found = tmp_path / "result.json"
    assert found.exists() is left
    if left:
        result = json.loads(found.read_text())
        assert (result["status"], result["columns"]) == (
            "ok",
            {"peers": {"compile_timeout_s": 0.5}},
        )


def test_without_a_limit_nothing_ends(tmp_path: Path) -> None:
    from bench.peers.compiling import CompileLimit

    limit = CompileLimit(tmp_path, None)
    limit.begin()
    limit.step()
    limit.end()
    assert not list(tmp_path.iterdir())


def test_cells_are_told_apart_by_what_they_are(
    of: Comparison, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.jsonl"
    kept(file, of).add(attempt(of, "ours"))
    other = [cell(tiny_checkpoint, batch_size=4)]
    assert other[0].name == of.cells[0].name
    assert kept(file, of, cells=other).attempts(of.sides) == []
