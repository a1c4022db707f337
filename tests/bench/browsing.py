"""A page in a real browser, which loads nothing else and complains of nothing."""

from pathlib import Path
from typing import Any

from tests.bench.report.test_browser import PHONE as PHONE
from tests.bench.report.test_browser import WIDE as WIDE
from tests.bench.report.test_browser import open_page


def open_quietly(browser: Any, path: Path, size: dict[str, int]) -> Any:
    """A page, all of whose details are open; fail if it is wider than the window."""
    page = open_page(browser, path, size)
    for details in page.query_selector_all("details"):
        details.evaluate("e => { e.open = true }")
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    return page
