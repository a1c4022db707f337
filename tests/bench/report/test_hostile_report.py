"""Reports on rows with hostile texts and impossible numbers, and on files beside them that are
changed in any part: it is rendered, or a line names the file. And tables that commands print."""

import copy
import json
import os
import random
import re
import subprocess
import sys
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from typing import Any

import markdown
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bench.analysis.groups import groups
from bench.common.errors import InputError
from bench.plan.columns import BY_NAME, NAMES, REQUIRED, VALUES, values_of
from bench.plan.job import FILE
from bench.report.forecasts import forecasts_section
from bench.report.pages import Facts, sections_of
from bench.report.pages import markdown as as_markdown
from bench.report.render import render, report
from bench.report.tables import Head, Table, print_tables
from bench.results import curves
from bench.results import facts as facts_file
from bench.results.curves import Curves, Point, curves_key
from bench.results.exports import EXPORTS
from bench.results.facts import FinalScore, Reference
from bench.results.rescoring import read_results
from bench.results.store import cell_folder, plan_file
from tests.bench.browsing import WIDE, open_page
from tests.bench.report.snapshots import check_snapshot
from tests.bench.report.test_recommendation import exported
from tests.bench.report.test_sections import facts
from tests.bench.results.test_hostile_results import JOB
from tests.bench.synthetic_rows import (
    as_results,
    cell,
    failed_row,
    full_grid,
    result_row,
    synthetic_rows,
    write_rows,
)
from tests.hostile import NUMBERS, TEXTS, changed, check_line, examples


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report on rows with each text in every text column, a group for each text, and in columns
    whose values the page lists, which no reader accepts."""
    kept = {*VALUES, "status", "flags", "conditions_id", "cell_id", "init", "dev_metric"}
    columns = [name for name in NAMES if BY_NAME[name].kind is str and name not in kept]
    rows = [*synthetic_rows(6), failed_row(cell("head", None, None, "off", 5), "oom", "no")]
    spoiled = [
        row | dict.fromkeys(columns, text) | {"init": "pretrained", "dev_metric": "accuracy"}
        | {"cell_id": f"{row['cell_id']}{text}", "conditions_id": str(number)}
        for number, text in enumerate(TEXTS) for row in rows
    ]  # fmt: skip
    failed = {"status": "crashed", "flags": None}
    spoiled += [row | {**failed, "cell_id": f"x{n}"} for n, row in enumerate(spoiled)]
    full, strange = cell("full", None, None, "off"), ("cell_id", "mode", "layers", "amp", "flags")
    listed = [result_row(full, finished_at="~") | dict.fromkeys(strange, text) for text in TEXTS]
    made = tmp_path_factory.mktemp("report")
    render(as_results([*listed, *spoiled], runs=[f"{TEXTS[0]}.csv", TEXTS[-1]]), made)
    return made


def check_characters(text):
    """All are printable, and none of the texts is there in its whole length."""
    assert {char for char in text if not char.isprintable()} == {"\n"}
    assert r"\u202e" in text
    assert "x" * 600 not in text


def test_a_page_and_its_markdown_hold_markup_as_text(folder):
    html = (folder / "index.html").read_text("utf-8")
    assert len(re.findall("<script", html)) == html.count("</script>") == 2
    rest = re.sub(r"<(script|style).*?</\1>", "", html, flags=re.DOTALL)
    check_characters(rest)
    assert "&lt;script&gt;window.pwned" in rest
    for tag in re.findall(r"<[a-zA-Z][^>]*>", rest):
        assert not re.search(r"\son\w+\s*=|javascript:|x\.invalid", tag), tag
    assert "<img" not in rest
    assert "{{" in rest, "a template in a text is no template"
    for path in (folder / "figures").iterdir():
        text = path.read_text("utf-8")
        assert "<script" not in text
        assert not re.search(r"<[^>]*\son\w+\s*=", text)

    text = (folder / "report.md").read_text("utf-8")
    check_characters(text)
    html = markdown.markdown(text, extensions=["tables"])
    assert "<script" not in html
    for tag in re.findall(r"<[a-zA-Z][^>]*>", html):
        assert not re.search(r"\son\w+\s*=", re.sub('"[^"]*"', "", tag)), tag
        assert '="javascript:' not in tag, tag
    sources = re.findall(r'<img [^>]*src="([^"]*)"', html)
    assert sources
    assert all(source.startswith("figures/") for source in sources)
    assert re.findall(r"<a [^>]*>", html) == ['<a href="index.html">']


def test_a_browser_runs_nothing_of_it(browser, folder):
    page = open_page(browser, folder / "index.html", WIDE)
    for details in page.query_selector_all("details"):
        details.evaluate("e => { e.open = true }")
    for head in ("mode", "layers", "AMP", "status", "seed"):
        heading = page.locator("#cell-grid .tabulator-col", has_text=head).first
        heading.locator("input").click()
        page.wait_for_selector(".tabulator-edit-list-item")
        page.keyboard.press("Escape")
        page.locator("h1").click()
    buttons = page.locator("#settings-rows button", has_text="<")
    for place in range(2):
        buttons.nth(place).click()
    assert page.locator("article.pin h3", has_text="<").count() == 2
    page.wait_for_url(lambda url: url.count("pin=") == 2)
    page.reload()
    assert page.locator("article.pin").count() == 2
    assert page.evaluate("window.pwned") is None
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    page.close()


def test_numbers_that_nobody_measured_are_shown(tmp_path):
    rows, values = synthetic_rows(68, failures=False), cycle([0, -1.0, 1e29, -1e29, 0, 1e-320])
    groups_of = ("size", "time", "memory", "quality")
    measured = [n for n in NAMES if BY_NAME[n].group in groups_of and n not in VALUES]
    for place, value in zip(range(0, 68, 3), values, strict=False):
        filled = [name for name in measured if rows[place][name] is not None]
        rows[place] |= {name: BY_NAME[name].kind(value) for name in filled}
    assert "</html>" in render(as_results(rows), tmp_path).read_text("utf-8")


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
DATA, KEY = ROWS[0].data_digest, curves_key(ROWS[0].model_digest, "cpu")
FILES: dict[str, Any] = {
    "data": {DATA: FACTS.model_dump(mode="json")},
    "exports": {ROWS[0].cell_id: exported().model_dump(mode="json")},
    "fit": {KEY: CURVES.model_dump(mode="json")},
    "plan": [{name: value for name, value in values_of(row).items() if value} for row in ROWS],
    "cell": json.loads(JOB.to_json()),
}
OTHER_VALUES = [
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


@st.composite
def changed_file(draw):
    """A file's name and its content with some values replaced, added or removed."""
    name = draw(st.sampled_from(["data", "data", "data", "exports", "exports", *FILES]))
    return name, draw(changed(FILES[name], st.sampled_from(OTHER_VALUES)))


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


def test_a_text_on_a_terminal_is_no_markup(capsys):
    text = "[red]a[/red] [/b] :smile:"
    print_tables([Table([Head("h", "[i]h")], [[text]], "[b]caption")], [f"line {text}"])
    shown = capsys.readouterr().out
    assert shown.count(text) == 2
    assert "[i]h" in shown
    assert "[b]caption" in shown
    print_tables([Table([Head("h", "h")], [[f"\x1b]0;\u202e{i}"] for i in range(50_000)])], [])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 600
    assert r"\x1b]0;\u202e499" in shown
    assert "and 49,500 more" in shown


def test_markdown_has_the_first_of_very_many_rows_and_a_command_of_several_lines_as_code():
    facts = Facts(
        title="title", findings=[], sections=[], how="How", notes=[],
        command="python 'a\n\n# b' <b>c</b>",
    )  # fmt: skip
    for number, is_cut in ((500, False), (501, True)):
        table = Table([Head("h", "h")], [[f"row {n}"] for n in range(number)], "All of them")
        text = as_markdown("updates", replace(facts, sections=sections_of([], [table], [])))
        assert "row 499" in text
        assert "row 500" not in text
        assert ("500 of 501 are shown; the rest is in the HTML page." in text) == is_cut
        assert ("are shown" in text) == is_cut
    html = markdown.markdown(text, extensions=["tables"])
    assert "# b" in html
    assert "<b>" not in html
    assert html.count("<h1>") == 1


def test_a_matplotlibrc_in_the_current_folder_changes_no_figure(tmp_path):
    (tmp_path / "matplotlibrc").write_text("axes.linewidth: 30\n")
    code = "import bench.report.drawing as d; print(d.mpl.rcParams['axes.linewidth'])"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-P", "-c", code]
    shown = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert float(shown) == 0.8


CHECKED = ("schema", "scale", "attempt", "status", "flags", "layers", "adapter", "plugin")
"""Columns that readers check, or that follow from others."""
PLAUSIBLE = st.none() | st.sampled_from([n for n in NUMBERS if abs(n) < 1e29]) | st.floats(-9, 9)


@examples(10)
@given(data=st.data())
def test_any_rows_that_a_reader_lets_pass_have_a_report(data):
    noise = random.Random(0)  # noqa: S311
    rows = [result_row(cell(*axes), noise) for axes in full_grid()][: data.draw(st.integers(1, 12))]
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(rows) - 1))
        name = data.draw(st.sampled_from([n for n in NAMES if n not in CHECKED]))
        kind = BY_NAME[name].kind
        texts = st.sampled_from(VALUES.get(name, TEXTS))
        value = data.draw((texts if kind is str else PLAUSIBLE) | st.none())
        if value is not None or name not in REQUIRED:
            rows[place] |= {name: None if value is None else kind(value)}
    assert report(as_results(rows))["cells"].rows
