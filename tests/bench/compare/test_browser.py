"""The page of a comparison in a real browser: from disk, without a network, wide and narrow."""

from bench.compare.page import write
from tests.bench.browsing import WIDE, open_quietly
from tests.bench.compare.constructed import constructed


def test_it_opens_quietly_offline_and_nothing_sticks_out(browser, tmp_path):
    path = write(constructed(40, worse=0.5), tmp_path)
    for size in (WIDE, {"width": 360, "height": 800}):
        page = open_quietly(browser, path, size)
        assert "regressions" in page.locator(".lead").first.inner_text()
        figures = page.query_selector_all("figure svg")
        assert len(figures) == 6, "a picture for each measure, and one of machines"
        for svg in figures:
            assert 300 <= svg.bounding_box()["width"] <= size["width"]
        page.close()
