"""Measure how often a race is wrong, decided, and what it saves.

Example: python -m tests.experiments.races --runs 1000"""

from tests.experiments import races
from tests.experiments.processes import scenarios_command

if __name__ == "__main__":
    scenarios_command(__doc__, races)()
