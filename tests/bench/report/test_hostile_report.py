"""Reports on rows with markup, formulas and commands as texts, and with impossible numbers."""

import random
import re
from itertools import cycle

import markdown
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.plan.columns import BY_NAME, NAMES, REQUIRED, VALUES
from bench.report.render import render, report
from bench.report.text import plain
from tests.bench.browsing import WIDE, open_page
from tests.bench.synthetic_rows import (
    as_results,
    cell,
    failed_row,
    full_grid,
    result_row,
    synthetic_rows,
)
from tests.hostile import NUMBERS, TEXTS, examples

TEXT_COLUMNS = [
    name
    for name in NAMES
    if BY_NAME[name].kind is str and name not in (*VALUES, "status", "flags", "conditions_id")
]
REAL = {"init": "pretrained", "dev_metric": "accuracy"}
"""Values that all rows keep, so that every section of the report is there."""


def spoiled(rows):
    """The rows with each text of `TEXTS` in every text column, a group for each text."""
    made = []
    for number, text in enumerate(TEXTS):
        texts = {name: text for name in TEXT_COLUMNS if name != "cell_id"}
        for row in rows:
            identity = {"cell_id": f"{row['cell_id']}{text}", "conditions_id": str(number)}
            made.append(row | {**texts, **identity, **REAL})
    failed = {"status": "crashed", "flags": None}
    return [*made, *(row | {**failed, "cell_id": f"x{n}"} for n, row in enumerate(made))]


ROWS = spoiled([*synthetic_rows(6), failed_row(cell("head", None, None, "off", 5), "oom", "no")])
STRANGE = [
    row
    | {
        "mode": text,
        "layers": text,
        "amp": text,
        "rank": None,
        "status": "ok",
        "flags": text,
        "finished_at": "~",
    }
    for text, row in zip(TEXTS, synthetic_rows(len(TEXTS)), strict=True)
]
"""Values that no reader accepts, in columns whose values the page lists."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A report on all of these rows."""
    made = tmp_path_factory.mktemp("report")
    render(as_results([*STRANGE, *ROWS], runs=[f"{TEXTS[0]}.csv", TEXTS[-1]]), made)
    return made


def check_characters(text):
    """All are printable, and none of the texts is there in its whole length."""
    assert {char for char in text if not char.isprintable()} == {"\n"}
    assert r"\u202e" in text
    assert "x" * 600 not in text


def test_a_page_holds_markup_as_text(folder):
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


def test_markdown_holds_markup_as_text(folder):
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
    page.wait_for_function("() => location.hash.split('pin=').length === 3")
    page.reload()
    assert page.locator("article.pin").count() == 2
    assert page.evaluate("window.pwned") is None
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    page.close()


def test_a_text_shown_is_short_and_shows_all_its_characters():
    assert all(plain(text).isprintable() and len(plain(text)) <= 500 for text in TEXTS)
    assert plain("héllo 中 wörld") == "héllo 中 wörld"


def with_numbers(values, columns):
    """Rows of a full grid; every third has the next of these numbers in these columns."""
    noise = random.Random(0)  # noqa: S311
    rows = [result_row(cell(*axes), noise) for axes in full_grid()]
    for place, value in zip(range(0, len(rows), 3), cycle(values), strict=False):
        filled = [name for name in columns if rows[place][name] is not None]
        rows[place] |= {name: BY_NAME[name].kind(value) for name in filled}
    return rows


MEASURED = [
    name
    for name in NAMES
    if BY_NAME[name].group in ("size", "time", "memory", "quality") and name not in VALUES
]


def test_numbers_that_nobody_measured_are_shown(tmp_path):
    rows = with_numbers([0, -1.0, 1e29, -1e29, 0, 1e-320], MEASURED)
    index = render(as_results(rows), tmp_path)
    assert "</html>" in index.read_text("utf-8")


CHECKED = ("schema", "scale", "attempt", "status", "flags", "layers", "adapter", "plugin")
"""Columns that readers check, or that follow from others."""
PLAUSIBLE = st.none() | st.sampled_from([n for n in NUMBERS if abs(n) < 1e29]) | st.floats(-9, 9)


@examples(10)
@given(data=st.data())
def test_any_rows_that_a_reader_lets_pass_have_a_report(data):
    rows = with_numbers([], [])[: data.draw(st.integers(1, 12))]
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(rows) - 1))
        name = data.draw(st.sampled_from([n for n in NAMES if n not in CHECKED]))
        kind = BY_NAME[name].kind
        texts = st.sampled_from(VALUES.get(name, TEXTS))
        value = data.draw((texts if kind is str else PLAUSIBLE) | st.none())
        if value is not None or name not in REQUIRED:
            rows[place] |= {name: None if value is None else kind(value)}
    assert report(as_results(rows))["cells"].rows
