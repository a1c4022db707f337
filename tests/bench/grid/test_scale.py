"""What a report takes on a disk does not grow with the rows behind it."""

import random

import pytest

from bench.report import cells, tables, tradeoff
from bench.report.render import render
from tests.bench.synthetic_rows import as_results, cell, result_row, synthetic_rows

pytestmark = pytest.mark.usefixtures("undrawn")


def sizes(folder, rows):
    """Bytes of the page and of the Markdown, within limits, and the page."""
    html = render(as_results(rows, runs=["runs.csv"]), folder).read_text("utf-8")
    page, text = len(html.encode()), (folder / "report.md").stat().st_size
    assert page < 5_000_000
    assert text < 1_000_000
    return page, text, html


def test_a_page_is_as_large_for_twice_the_seeds(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "MOST_OF_A_GROUP", 100)
    page, text, html = sizes(tmp_path / "a", synthetic_rows(68 * 4))
    twice, twice_text, _ = sizes(tmp_path / "b", synthetic_rows(68 * 8))
    assert abs(twice - page) < 100_000
    assert abs(twice_text - text) < 50_000
    assert "100 of 272 are shown; the rest is in runs.csv." in html
    assert "260 of 272 ended ok" in html
    assert html.count('<tr class="failed">') < 100


def test_many_rates_are_many_settings_of_which_some_are_drawn(tmp_path, monkeypatch):
    for module in (tables, tradeoff):
        monkeypatch.setattr(module, "MOST_DRAWN", 60)
    monkeypatch.setattr(tables, "MOST_SETTINGS", 80)
    noise = random.Random(0)  # noqa: S311
    rows = [
        result_row(cell("lora", 8, "attn", "off", learning_rate=1e-5 * n), noise)
        for n in range(1, 200)
    ]
    _, _, html = sizes(tmp_path, [*rows, result_row(cell("full", None, None, "off"), noise)])
    assert "60 of 200 settings are drawn" in html
    assert "80 of 200 are shown" in html


def test_many_groups_are_counted_and_the_first_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "MOST_CELLS", 130)
    count = 40
    rows = [
        row | {"conditions_id": f"c{number}"}
        for number in range(count)
        for row in synthetic_rows(5)
    ]
    _, _, html = sizes(tmp_path, rows)
    assert f"{count - 21} more groups are not shown; their rows are in runs.csv." in html
    assert "130 of 200 are shown" in html
