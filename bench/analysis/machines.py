"""Two machines, compared through the settings that both ran."""

from dataclasses import dataclass

from bench.stats.intervals import Interval


@dataclass(frozen=True)
class MachineCost:
    """A cost of a setting on NEW's machine, relative to BASE's.

    Attributes:
        column: the column of runs.csv.
        label: the cost in words.
        absolute: the ratio NEW / BASE.
        normalised: the ratio of both machines' values relative to full fine-tuning in fp32 there;
            below 1 the setting gains more on NEW's machine. None without full fine-tuning in fp32
            of the same seeds on both.
    """

    column: str
    label: str
    absolute: Interval
    normalised: Interval | None


@dataclass(frozen=True)
class MachineRow:
    """A setting that both machines ran, with its costs; `why` names what could not be compared."""

    label: str
    costs: tuple[MachineCost, ...]
    why: str = ""


@dataclass(frozen=True)
class Machines:
    """Settings that both machines ran.

    Attributes:
        base, new: names of the machines.
        rows: settings in the order of modes.
        why: what could not be compared for any setting; empty: everything was.
    """

    base: str
    new: str
    rows: tuple[MachineRow, ...]
    why: str = ""
