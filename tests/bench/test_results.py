"""What a worker left becomes a row, with intervals and doubts."""

from pathlib import Path

import pytest

from bench import gridfile
from bench.plan import Resolved, expand
from bench.results import measured_row, not_learned, score_interval, step_interval
from bench.schema import NAMES, Row, new_row

CELL = expand(gridfile.load("smoke"), Resolved("minilm", "m", "mean", "d", "bf16", "grid"))[0]


def row_of(folder: Path, **columns: object) -> Row:
    return measured_row(
        CELL,
        {"device": "cpu", "conditions_id": "here"},
        columns=columns,
        status=str(columns.pop("status", "ok")),
        flags=[],
        message=str(columns.pop("message", "")),
        folder=folder,
        dev_examples=100,
        majority_score=0.36,
    )


def steps_file(folder: Path, times: list[float]) -> None:
    lines = [f"{n},{ms},10,2,0.5" for n, ms in enumerate(times, start=1)]
    (folder / "steps.csv").write_text("\n".join(["step,ms,tokens,examples,loss", *lines]) + "\n")


def test_row_has_every_column_and_ignores_strangers(tmp_path: Path) -> None:
    row = row_of(tmp_path, dev_metric="accuracy", dev_score=0.5, colour="red")
    assert tuple(row) == NAMES
    assert row["mode"] == CELL.mode
    assert row["conditions_id"] == "here"


def test_warm_up_steps_are_outside_the_median(tmp_path: Path) -> None:
    steps_file(tmp_path, [900.0, 800.0, 10.0, 12.0, 11.0])
    found = step_interval(tmp_path, 3)
    assert found["step_ms_median"] == 11.0
    assert 10.0 <= float(found["step_ms_ci_low"]) <= 11.0 <= float(found["step_ms_ci_high"]) <= 12.0  # type: ignore[arg-type]
    assert step_interval(tmp_path, 0) == {}


def test_accuracy_gets_wilson_and_correlation_fisher() -> None:
    accuracy = score_interval(new_row(dev_metric="accuracy", dev_score=0.5), 100)
    assert accuracy["dev_ci_low"] == pytest.approx(0.4038, abs=1e-4)
    assert accuracy["dev_ci_high"] == pytest.approx(0.5962, abs=1e-4)
    correlation = score_interval(new_row(dev_metric="pearson", dev_score=0.5), 100)
    assert correlation["dev_ci_low"] == pytest.approx(0.3366, abs=1e-3)


def test_not_learned_is_flagged_by_the_interval(tmp_path: Path) -> None:
    assert row_of(tmp_path, dev_metric="accuracy", dev_score=0.44)["flags"] == "not_learned"
    assert row_of(tmp_path, dev_metric="accuracy", dev_score=0.60)["flags"] is None
    assert not_learned(new_row(dev_metric="pearson"))
    assert not_learned(new_row(dev_metric="pearson", dev_score=0.1, dev_ci_low=-0.1))
    assert not not_learned(new_row(dev_metric="pearson", dev_score=0.4, dev_ci_low=0.2))
    assert not not_learned(new_row())


def test_a_failed_cell_keeps_its_message_on_one_line(tmp_path: Path) -> None:
    row = row_of(tmp_path, status="oom", message="no\nmemory", peak_rss_mib=5.0)
    assert row["message"] == "no memory"
    assert row["peak_rss_mib"] == 5.0
    assert row["dev_ci_low"] is None
