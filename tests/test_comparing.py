"""False alarms of bench.compare, and the figures of docs/comparing.md."""

from typing import Any

import pytest

from bench.results.rowfile import read_rows
from bench.stats.intervals import wilson
from tests.comparing.alarms import SCENARIOS, Repeats, Simulated, measure
from tests.comparing.figures import PAGE, REPEATS, page, read_figures

FALSE_ALARMS = 0.05


def is_rare(count: int, draws: int) -> bool:
    """Whether a share may be at most 5%, up to the error of its number of draws."""
    return wilson(count, draws)[0] <= FALSE_ALARMS


@pytest.mark.parametrize("world", [SCENARIOS[i] for i in (1, 3, 7)], ids=lambda world: world.name)
def test_simulated_rows_of_the_same_code_rarely_differ(world: Simulated) -> None:
    outcome = measure(world, 40)
    assert outcome["alarms"] <= FALSE_ALARMS * 40
    assert is_rare(outcome["changes"], 40)


def test_halves_of_real_repeats_rarely_differ() -> None:
    rows = read_rows(REPEATS)
    assert len({row.repeat for row in rows}) >= 12
    outcome = measure(Repeats(rows), 40)
    assert outcome["alarms"] <= FALSE_ALARMS * 40
    assert is_rare(outcome["changes"], 40)


def test_the_committed_figures_keep_the_promises() -> None:
    figures = read_figures()
    assert [one["name"] for one in figures["aa"][1:]] == [world.name for world in SCENARIOS]
    # a setting that scatters more without showing it has too narrow an interval
    unequal = [world.name for world in SCENARIOS if world.unequal]
    for one in figures["aa"]:
        assert one["draws"] >= 200
        assert one["alarms"] <= FALSE_ALARMS * one["draws"], one["name"]
        assert one["name"] in unequal or is_rare(one["changes"], one["draws"]), one["name"]
    assert len(figures["work"]) == 20
    assert sum("step_gflop" in one["found"] for one in figures["work"]) >= 19
    assert sum(one["found"] for one in figures["slow"]) >= 16


def test_the_page_has_the_figures() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert text == page(text, read_figures()), "python -m tests.comparing page --only-page"


def test_the_table_has_a_row_for_each_figure() -> None:
    aa: dict[str, Any] = {"name": "splits", "draws": 200, "alarms": 3, "changes": 8}
    slow = [{"rounds": 3, "change": 1.1, "found": found} for found in (True, False, True)]
    figures = {"aa": [aa], "work": [{"gflop": 1.05, "found": ["step_gflop"]}], "slow": slow}
    text = page("a\n<!-- comparing -->\nold\n<!-- comparing -->\nb\n", figures)
    assert text.startswith("a\n<!-- comparing -->\n| data ")
    assert text.endswith("<!-- comparing -->\nb\n")
    assert "| 200 | 1.5% (0.5% to 4.3%) | 4.0% |" in text
    assert "| 1 | 1 of 1 |" in text
    assert "3 rounds" in text
    assert "| 3 | 2 of 3 |" in text
    assert "old" not in text
