"""Measure how often the rule of bench.recommend is right, on data of known truth.

Example: python -m tests.experiments.decisions --runs 1000
"""

from tests.experiments import decisions as own
from tests.experiments.pages import rewrite, write_json
from tests.experiments.processes import scenarios_command


def calls(runs):
    return [(own.measure_number, number, runs) for number in range(len(own.every_world()))]


def write_figures(runs, scenarios):
    kept, others = scenarios[: len(own.worlds())], scenarios[len(own.worlds()) :]
    write_json(own.FIGURES, {"runs": runs, "scenarios": kept, "beyond": others})


def write_page():
    rewrite(own.PAGE, own.page, own.read_figures())


if __name__ == "__main__":
    scenarios_command(__doc__, calls, write_figures, write_page)()
