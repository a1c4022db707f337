"""The report in a real browser: from disk, without a network, wide and narrow, with and without
JavaScript."""

import pytest

from bench.report.pages import Facts, html
from bench.report.render import render
from tests.bench.browsing import PHONE, WIDE, open_page, open_quietly
from tests.bench.synthetic_rows import as_results, synthetic_rows


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    other = [
        row | {"conditions_id": "other", "machine": "EPYC, 64 cores",
               "finished_at": "2025-01-01T00:00:00Z"} for row in synthetic_rows(20)
    ]  # fmt: skip
    return render(as_results([*synthetic_rows(68), *other]), tmp_path_factory.mktemp("report"))


def test_it_opens_quietly_offline_and_nothing_sticks_out(browser, index):
    """On a phone; wide pages are those of the explorer."""
    page = open_quietly(browser, index, PHONE)
    for svg in page.query_selector_all("main > section figure svg"):
        box = svg.bounding_box()
        assert 300 <= box["width"] <= PHONE["width"]
        sizes = svg.evaluate(
            "s => [...s.querySelectorAll('text')].map(t => t.getBoundingClientRect().height)"
        )
        assert min(sizes) >= 8
    page.close()


@pytest.mark.parametrize("kind", ["index", "page"])
def test_a_script_that_was_put_into_a_page_does_not_run(browser, index, tmp_path, kind):
    facts = Facts(title="t", findings=["f"], sections=[], notes=[], command="python -m bench.data")
    text = index.read_text("utf-8") if kind == "index" else html(facts)
    bad = "<script>window.pwned = 1</script><img src='x' onerror='window.pwned = 1'>"
    (tmp_path / "page.html").write_text(text.replace("</h1>", f"</h1>{bad}"), "utf-8")
    page = open_page(browser, tmp_path / "page.html", WIDE)
    if kind == "index":
        page.wait_for_selector("#charts svg")
    assert page.evaluate("window.pwned") is None
    assert sum("Content Security Policy" in line for line in page.complaints) >= 2
    page.close()


def cells(page, title):
    at = page.evaluate(
        "t => cellGrid.getColumns().findIndex(c => c.getDefinition().title === t)", title
    )
    return page.evaluate("i => cellGrid.getRows('active').map(r => r.getData()['text_' + i])", at)


def test_the_table_of_cells_sorts_by_number_and_filters(browser, index):
    page = open_page(browser, index, WIDE)
    heading = page.locator("#cell-grid .tabulator-col", has_text="RSS, MiB").first
    heading.locator(".tabulator-col-sorter").click()
    found = cells(page, "RSS, MiB")
    numbers = [float(text.replace(",", "")) for text in found if text != "not measured"]
    assert numbers == sorted(numbers)
    assert numbers[0] < 1000 <= numbers[-1], "what text would sort otherwise"
    assert len(numbers) < len(found)
    assert set(found[len(numbers) :]) == {"not measured"}
    box = page.locator("#cell-grid .tabulator-col", has_text="mode").first.locator("input")
    box.click()
    page.locator(".tabulator-edit-list-item", has_text="dora").first.click()
    page.wait_for_function("() => cellGrid.getDataCount('active') < 88")
    assert set(cells(page, "mode")) == {"dora"}
    assert page.complaints == []
    page.close()


def test_without_javascript_advice_pictures_and_every_cell_are_there(browser, index):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(index.as_uri())
    assert page.locator("#advice h2").is_visible()
    assert page.locator("#tradeoff figure svg").count() == 2
    for without in ("#explorer", "nav a[href='#explorer']", "#cells-hint"):
        assert page.locator(without).is_hidden()
    assert page.locator("#cell-table tbody tr").count() == 88
    assert page.locator("#cell-table tbody tr").first.is_visible()
    context.close()


def test_dark_pages_keep_figures_readable(browser, index):
    page = open_page(browser, index, WIDE)
    stroke = "getComputedStyle(document.querySelectorAll('#legend path')[2]).stroke"
    page.wait_for_selector("#legend path")
    usual = page.evaluate(stroke)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(stroke) != usual
    ink, paper = page.evaluate(
        """() => {
        const text = document.querySelector('figure svg text');
        return [getComputedStyle(text).fill, getComputedStyle(document.body).backgroundColor];
    }"""
    )

    def light(colour):
        return sum(int(part) for part in colour[4:-1].split(",")[:3]) / 765

    assert light(ink) - light(paper) > 0.6
    page.close()
