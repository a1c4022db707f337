"""The page of a comparison in a real browser: from disk, without a network, wide and narrow."""

from pathlib import Path

import pytest

from bench.compare.page import write
from tests.bench.compare.constructed import constructed
from tests.bench.report.test_browser import WIDE, open_page

NARROW = {"width": 360, "height": 800}


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(constructed(100, worse=0.5), tmp_path_factory.mktemp("compare"))


@pytest.mark.parametrize("size", [WIDE, NARROW], ids=["wide", "narrow"])
def test_it_opens_quietly_offline_and_nothing_sticks_out(browser, page_path, size) -> None:
    page = open_page(browser, page_path, size)
    for details in page.query_selector_all("details"):
        details.evaluate("e => { e.open = true }")
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    assert "regressions" in page.locator(".lead").first.inner_text()
    figures = page.query_selector_all("figure svg")
    assert len(figures) == 6, "a picture for each measure, and one of machines"
    for svg in figures:
        assert 300 <= svg.bounding_box()["width"] <= size["width"]
    page.close()
