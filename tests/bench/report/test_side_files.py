"""Files beside runs.csv, changed in any part: a report is rendered, or a line names the file. And
the sections on predictions, and on costs by length and batch."""

import copy
import json
import random
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from bench.analysis.groups import groups
from bench.common.errors import InputError
from bench.plan.columns import values_of
from bench.plan.job import FILE
from bench.report.forecasts import forecasts_section
from bench.report.render import render, report
from bench.results import curves
from bench.results import facts as facts_file
from bench.results.curves import Curves, Point, curves_key
from bench.results.exports import EXPORTS
from bench.results.facts import FinalScore, Reference
from bench.results.rescoring import read_results
from bench.results.store import cell_folder, plan_file
from tests.bench.report.snapshots import check_snapshot
from tests.bench.report.test_recommendation import exported
from tests.bench.report.test_sections import facts
from tests.bench.results.test_hostile_results import JOB
from tests.bench.synthetic_rows import cell, result_row, synthetic_rows, write_rows
from tests.hostile import changed, check_line, examples

ROWS = [result_row(cell("full", None, None, "off", seed), random.Random(seed)) for seed in (0, 1)]  # noqa: S311
SCORES: Any = {"accuracy": (0.4, 0.3, 0.5)}
FACTS = facts().model_copy(update={
    "tokens_of": "v",
    "references": tuple(
        Reference(name=n, about="a", train=2000, scores=SCORES) for n in facts_file.REFERENCES
    ),
    "final": FinalScore(
        setting="s", cell_id="c", seed=0, metric="accuracy", dev=0.5, test="t.csv", digest="d",
        examples=10, scores=SCORES, at="2026-01-01",
    ),
})  # fmt: skip
CURVES = Curves(
    model="m", batch=64, length=128, under_10={"lora": 99}, notes=("error: none",),
    points=tuple(
        Point(setting=mode, mode=mode, layers=None, length=n, batch=b, ms_per_1k_tokens=1.0,
              memory_mib={"weights": mib, "activations": 1.0 * n * b})
        for mode, mib in (("full", 300.0), ("lora", 100.0)) for b, n in ((64, 16), (1, 128))
    ),
)  # fmt: skip
KEY = curves_key(ROWS[0].model_digest, "cpu")
FILES: dict[str, Any] = {
    "data": {ROWS[0].data_digest: FACTS.model_dump(mode="json")},
    "exports": {ROWS[0].cell_id: exported().model_dump(mode="json")},
    "fit": {KEY: CURVES.model_dump(mode="json")},
    "plan": [{name: value for name, value in values_of(row).items() if value} for row in ROWS],
    "cell": json.loads(JOB.to_json()),
}
VALUES = [
    None, True, -1, 0, 10**400, 1e308, 5e-324, float("nan"), "", "\ud800", "a\x1b[1m\u202eb",
    [], {}, [[]],
]  # fmt: skip


def with_value(value, name, *place):
    """A file's name and its content with another value in a place."""
    document = copy.deepcopy(FILES[name])
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    return name, document


DATA = ROWS[0].data_digest


@st.composite
def changed_file(draw):
    """A file's name and its content with some values replaced, added or removed."""
    name = draw(st.sampled_from(["data", "data", "data", "exports", "exports", *FILES]))
    return name, draw(changed(FILES[name], st.sampled_from(VALUES)))


@example(change=with_value([1], "data", DATA, "class_counts", "red"), renders=True)
@example(change=with_value("\ud800", "data", DATA, "references", 0, "about"), renders=True)
@example(change=with_value(10**400, "data", DATA, "train"), renders=True)
@example(change=with_value({}, "fit", KEY, "points", 0, "memory_mib"), renders=True)
@example(change=with_value(1, "fit", KEY, "batch"), renders=True)
@example(change=with_value("a\x1b[1m", "fit", KEY, "points", 0, "mode"), renders=True)
@examples(150)
@given(change=changed_file(), renders=st.sampled_from([False] * 9 + [True]))
def test_a_changed_file_is_refused_by_a_line_or_a_report_is_rendered(
    tmp_path, undrawn, change, renders
):
    path = tmp_path / "runs.csv"
    write_rows(path, ROWS)
    folder = cell_folder(path, ROWS[0].name, *ROWS[0].row_key)
    folder.mkdir(parents=True, exist_ok=True)
    kept = {"data": facts_file.FACTS, "exports": EXPORTS, "fit": curves.CURVES}
    files = {name: of.path(path) for name, of in kept.items()}
    files |= {"plan": plan_file(path), "cell": folder / FILE}
    for name, content in (*FILES.items(), change):
        files[name].write_text(json.dumps(content))
    try:
        results = read_results([path], None)
        planned = results.planned
        if not renders:  # which takes a second
            return
        index = render(results, tmp_path / "reports", planned=planned)
    except InputError as error:
        check_line(str(error), files[change[0]])
    else:
        assert "</html>" in index.read_text("utf-8")


def predicted(memory, time, every=1):
    """Rows of which one in `every` has predictions: multiples of the measured values."""
    rows = synthetic_rows(68, failures=False)
    return [
        row | {"predicted_peak_mib": memory * row["peak_rss_mib"],
               "predicted_s": time * row["wall_s"]} if i % every == 0 else row
        for i, row in enumerate(rows)
    ]  # fmt: skip


def test_the_section_counts_predictions_of_cells_that_ended_ok():
    constant = {"predicted_peak_mib": 1.0, "predicted_s": 1.0}
    check_snapshot("forecasts", {
        title: forecasts_section(groups(rows)[0]) for title, rows in {
            "half, the times too short": predicted(1.05, 0.8, every=2),
            "failed cells are no misses": [row | constant for row in synthetic_rows(68)],
            "no times": [row | {"predicted_s": None} for row in predicted(1.0, 1.0)],
            "no peaks": [row | {"predicted_peak_mib": None} for row in predicted(1.0, 1.0)],
            "none": synthetic_rows(68),
        }.items()
    })  # fmt: skip


def test_a_report_has_the_curves_of_its_model_on_its_kind_of_device(tmp_path, undrawn):
    """300 MiB of 1,324 are weights, of which LoRA has 100."""
    path = tmp_path / "runs.csv"
    write_rows(path, ROWS)
    for key in (curves_key("another model", "cpu"), KEY.replace("cpu", "cuda"), KEY):
        curves.CURVES.update(path, key, lambda _: CURVES)
        sections = report(read_results([path], None))["sections"]
        lengths = [section for section in sections if section.anchor == "lengths"]
        assert bool(lengths) == (key == KEY)
    check_snapshot("lengths", {"short": lengths[0].short, "section": lengths})
