"""Measure how often the rule of bench.recommend is right, on data of known truth.

Example: python -m tests.experiments.decisions --runs 1000
"""

from tests.experiments import decisions as own
from tests.experiments.pages import rewrite, write_json
from tests.experiments.processes import scenarios_command


def write_figures(runs, scenarios):
    kept, beyond = scenarios[: len(own.worlds())], scenarios[len(own.worlds()) :]
    write_json(own.FIGURES, {"runs": runs, "scenarios": kept, "beyond": beyond})


def write_page():
    rewrite(own.PAGE, own.page, own.read_figures())


if __name__ == "__main__":
    count = len(own.every_world())
    scenarios_command(__doc__, count, own.measure_number, write_figures, write_page)()
