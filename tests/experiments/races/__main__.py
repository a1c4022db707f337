"""Measure how often a race is wrong, decided, and what it saves.

Example: python -m tests.experiments.races --runs 1000
"""

from tests.experiments.pages import rewrite, write_json
from tests.experiments.processes import scenarios_command
from tests.experiments.races import FIGURES, PAGE, measure, page, read_figures, worlds


def calls(runs):
    return [(measure, world, runs) for world in worlds()]


def write_figures(runs, scenarios):
    write_json(FIGURES, {"runs": runs, "scenarios": scenarios})


def write_page():
    rewrite(PAGE, page, read_figures())


if __name__ == "__main__":
    scenarios_command(__doc__, calls, write_figures, write_page)()
