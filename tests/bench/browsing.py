"""A page in a real browser, which loads nothing else, complains of nothing and is accessible."""

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}
PAPER = {"width": 703, "height": 1017}
"""The window of A4 within the margins of style.css, 12 and 14 mm."""


def seen(html: str, without: str = "script|style") -> str:
    """The text of a page as one line, without markup and the content of some elements."""
    html = re.sub(rf"<({without}).*?</\1>", " ", html, flags=re.DOTALL)
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", html).split()))


def open_page(browser: Any, path: Path, size: dict[str, int]) -> Any:
    """A page with its table of cells, and what it complains of, shows and asks for in lists."""
    page = browser.new_page(viewport=size)
    page.complaints, page.asked = [], []
    page.on("console", lambda message: page.complaints.append(message.text))
    page.on("pageerror", lambda error: page.complaints.append(str(error)))
    page.on("dialog", lambda dialog: page.complaints.append(dialog.message))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(path.as_uri())
    if page.query_selector("#cells-hint"):
        page.wait_for_selector("#cell-grid .tabulator-row")
    return page


def open_quietly(browser: Any, path: Path, size: dict[str, int]) -> Any:
    """A page with all details open; fail if it is too wide or, if `WIDE`, axe-core complains."""
    page = open_page(browser, path, size)
    for details in page.query_selector_all("details"):
        details.evaluate("e => { e.open = true }")
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    found = [*violations(page, "dark"), *violations(page, "light")] if size == WIDE else []
    assert found == [], found
    return page


def violations(page: Any, scheme: str) -> list[tuple[str, str]]:
    """What axe-core finds: rules and elements; of dark pages, by the rule on contrast alone."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    page.emulate_media(color_scheme=scheme)
    rules = {"runOnly": ["color-contrast"]} if scheme == "dark" else {}
    found = axe.run(page, options={"resultTypes": ["violations"], **rules}).response["violations"]
    return [(each["id"], node["html"]) for each in found for node in each["nodes"]]
