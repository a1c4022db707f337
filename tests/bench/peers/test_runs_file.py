"""A comparison in pieces: results are kept, and only missing processes run."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.peers.compiling import STEPS
from bench.peers.outcome import compare
from bench.peers.rows import Attempt, missing_rounds
from bench.peers.runs_file import RunsFile
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
def alike(tiny_checkpoint: Path) -> Comparison:
    return comparison(tiny_checkpoint, "alike")


def attempt(compared: Comparison, side: str, turn: str = "a-0", **changes) -> Attempt:
    values = {"cell": compared.cells[0], "side": side, "round": turn, "status": "ok"}
    return Attempt(**{**values, **changes})


def runs_file(path: Path | None, compared: Comparison, **changes) -> RunsFile:
    return RunsFile(path, replace(compared, **changes), VERSIONS)


def sides_run(err: str) -> list[str]:
    """The sides of the processes that ran, from the progress display."""
    return [line.split(": ")[1].split(",")[0] for line in err.splitlines() if "round" in line]


def test_pieces_are_merged_into_one_csv(
    alike: Comparison, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, table = tmp_path / "x.jsonl", tmp_path / "x.csv"
    piece = {"runs": file, "csv_file": table}
    assert run(replace(alike, cells=alike.cells[1:], sides=("ours", "default")), **piece) == 0
    assert sides_run(capsys.readouterr().err) == ["ours", "default", "default", "ours"]
    assert run(replace(alike, cells=alike.cells[1:], started="b"), **piece) == 0
    assert sides_run(capsys.readouterr().err) == ["ours", "grouped", "grouped", "ours"]
    assert run(replace(alike, cells=alike.cells[:1], started="c"), **piece) == 0
    capsys.readouterr()
    assert run(alike, **piece) == 0
    shown = capsys.readouterr()
    assert sides_run(shown.err) == []
    assert alike.conditions.code_version in shown.out.replace("\n", " ")
    rows = list(csv.DictReader(table.open(newline="")))
    assert [(row["mode"], row["side"], row["rounds"]) for row in rows] == [
        ("lora", "ours", "2"), ("lora", "default", "2"), ("lora", "grouped", "2"),
        ("full", "ours", "4"), ("full", "default", "2"), ("full", "grouped", "2"),
    ]  # fmt: skip
    assert all(row["time_ratio"] for row in rows if row["side"] != "ours")


def test_only_default_lacks_our_allocator_settings(
    alike: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    file = tmp_path / "x.jsonl"
    sides = ("ours", "default", "grouped", "compiled")
    assert run(replace(alike, cells=alike.cells[:1], rounds=1, sides=sides), runs=file) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["side"]: line["answer"]["tuned"] for line in lines} == {
        "ours": True, "default": False, "grouped": True, "compiled": True,
    }  # fmt: skip


def test_each_side_sees_only_its_gpu(alike: Comparison, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    conditions = replace(alike.conditions, device="cuda:1")
    on_gpu = replace(
        alike, conditions=conditions, device_name="GPU-1", cells=alike.cells[:1], rounds=1
    )
    assert run(on_gpu, runs=file) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert {line["side"] for line in lines} == {"ours", "default", "grouped"}
    assert all(line["answer"]["gpu"] == ["GPU-1", "cuda:0"] for line in lines)


def test_whole_cells_have_the_cache_without_token_ids(
    alike: Comparison, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("vader", "tokens"):
        (tmp_path / "cache" / name).mkdir(parents=True)
    file = tmp_path / "x.jsonl"
    cells = [replace(alike.cells[0], max_steps=7)]
    whole = replace(
        alike, cells=cells, rounds=1, whole=True, sides=("ours", "trainer"), worker=alike.process
    )
    need_peft()
    examples = load_task("movies", **EXAMPLES)
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    assert compare(whole, examples, runs=file) == 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line["answer"]["cache"] for line in lines] == ["vader", "vader"]


def test_failed_processes_run_again(
    alike: Comparison, tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.jsonl"
    assert run(comparison(tiny_checkpoint, "crash"), runs=file) == 1
    assert {json.loads(line)["side"] for line in file.read_text().splitlines()} == {"ours"}
    capsys.readouterr()
    assert run(replace(alike, started="b"), runs=file, as_json=True) == 0
    assert [row["status"] for row in json.loads(capsys.readouterr().out)["rows"]] == ["ok"] * 6


def test_a_round_counts_only_with_ours(alike: Comparison) -> None:
    done = [
        attempt(alike, "ours", "a-0"),
        attempt(alike, "ours", "b-0"),
        attempt(alike, "default", "a-0"),
    ]
    first, _ = alike.cells
    assert missing_rounds(done, first, "default", 2) == 1
    assert missing_rounds([*done, attempt(alike, "default", "a-1")], first, "default", 2) == 1
    assert missing_rounds([*done, attempt(alike, "default", "b-0")], first, "default", 2) == 0
    assert missing_rounds(done, first, "grouped", 2) == 2
    left_out = attempt(alike, "compiled", status="not compiled")
    assert missing_rounds([*done, left_out], first, "compiled", 2) == 0


def test_only_comparable_attempts_count(alike: Comparison, tmp_path: Path) -> None:
    file = tmp_path / "x.jsonl"
    runs_file(file, alike).add(attempt(alike, "ours"))
    assert runs_file(file, alike).attempts(alike.sides) == [attempt(alike, "ours")]
    for other in (
        {"loss_steps": 9}, {"budget_s": 5.0}, {"whole": True}, {"cells": alike.cells[1:]},
        {"conditions": replace(alike.conditions, threads=7)},
    ):  # fmt: skip
        assert runs_file(file, alike, **other).attempts(alike.sides) == []
    assert RunsFile(file, alike, {"peft": "2"}).attempts(alike.sides) == []
    assert runs_file(file, alike).attempts(("default",)) == []
    assert runs_file(file, alike, rounds=9, started="c").attempts(alike.sides)


def test_compiling_is_retried_with_a_longer_limit(alike: Comparison, tmp_path: Path) -> None:
    file, status = tmp_path / "x.jsonl", "not compiled"
    left_out = attempt(alike, "compiled", status=status, answer={"compile_timeout_s": 60.0})
    runs_file(file, alike).add(left_out)
    assert runs_file(file, alike, compile_timeout_s=60.0).attempts(["compiled"]) == [left_out]
    assert runs_file(file, alike, compile_timeout_s=61.0).attempts(["compiled"]) == []
    assert runs_file(file, alike, compile_timeout_s=None).attempts(["compiled"]) == []


@pytest.mark.parametrize(("steps", "ends"), [(STEPS - 1, True), (STEPS, False)])
def test_a_process_ends_if_its_first_steps_take_too_long(
    tmp_path: Path, steps: int, ends: bool
) -> None:
    code = (
        "import sys, time; from pathlib import Path; "
        "from bench.peers.compiling import CompileLimit; "
        f"limit = CompileLimit(Path({str(tmp_path)!r}), 0.5); limit.begin(); "
        f"[limit.step() for _ in range({steps})]; time.sleep(1.5); sys.exit(7)"
    )
    done = subprocess.run([sys.executable, "-c", code])
    assert done.returncode == (0 if ends else 7)
    path = tmp_path / "result.json"
    assert path.exists() is ends
    if ends:
        result = json.loads(path.read_text())
        assert (result["status"], result["columns"]) == (
            "ok",
            {"peers": {"compile_timeout_s": 0.5}},
        )


def test_without_a_limit_the_process_goes_on(tmp_path: Path) -> None:
    from bench.peers.compiling import CompileLimit

    limit = CompileLimit(tmp_path, None)
    limit.begin()
    limit.step()
    limit.end()
    assert not list(tmp_path.iterdir())


def test_attempts_of_another_cell_with_the_same_name_are_ignored(
    alike: Comparison, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    file = tmp_path / "x.jsonl"
    runs_file(file, alike).add(attempt(alike, "ours"))
    other = [cell(tiny_checkpoint, batch_size=4)]
    assert other[0].name == alike.cells[0].name
    assert runs_file(file, alike, cells=other).attempts(alike.sides) == []
