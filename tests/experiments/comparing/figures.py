"""The committed figures, and the tables of docs/comparing.md and docs/measuring.md with them."""

from math import log, sqrt
from statistics import median

from bench.compare.alternating import look_rounds
from bench.stats.comparing import nominal_level
from bench.stats.intervals import quantile, wilson
from tests.experiments.pages import DOCS, with_tables

PAGES = (DOCS / "comparing.md", DOCS / "measuring.md")
FIGURES = DOCS / "comparing.json"
REPEATS = DOCS / "repeats.csv"
GRID = DOCS / "repeats.toml"
PARTS = ("aa", "power", "needed", "history", "repeats", "within", "work", "slow")


def page(text, figures):
    stds = []  # of a process's log time, from the interval of a trial: one of three comparisons
    for one in figures["slow"]:
        if "low" in one:
            level = nominal_level(0.05 / 3, len(look_rounds(24)))
            half = log(one["high"] / one["low"]) / 2
            rounds = one["rounds"]
            stds.append(float(half * sqrt(rounds / 2) / quantile(level, rounds - 1)))
    decided = [one["decided"] / one["draws"] for one in figures.get("needed", ())]
    return with_tables(
        text, __file__, **figures, stds=stds, decided=decided, wilson=wilson,
        median=lambda values: median(list(values)),
    )  # fmt: skip
