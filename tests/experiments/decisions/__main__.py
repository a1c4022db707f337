"""Measure how often the rule of bench.recommend is right, on data of known truth.

Example: python -m tests.experiments.decisions --runs 1000"""

from tests.experiments import decisions
from tests.experiments.processes import scenarios_command

if __name__ == "__main__":
    scenarios_command(__doc__, decisions)()
