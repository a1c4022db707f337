"""The interface of an executor, which runs the planned cells of a grid somewhere.

An executor promises that each attempt runs as `bench.launch.cell_run.run_cell` runs it, once; that
its row is stored in its folder by `bench.results.row.keep_row`, before `Conductor.ended` gets it;
and that a run which is stopped, however that happens, loses no row and repeats none.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from bench.launch.cell_run import CellRun
from bench.launch.signals import Signals
from bench.machine.conditions import Found
from bench.plan.planning import Planned
from bench.plan.rows import Row


class Progress(Protocol):
    """Displays the progress of cells."""

    def stage(self, name: str, at_once: int = 1) -> None:
        """Show what is done where no cell of this process runs.

        Args:
            at_once: the number of cells that run elsewhere.
        """

    def progress(self, message: dict[str, Any], name: str = "") -> None:
        """Show a message of the progress of the cell of a name, or `{"phase": TEXT}`."""

    def waiting(self, name: str = "") -> None:
        """Show that another grid has the device or the cell."""

    def note(self, text: str) -> None:
        """Show a line of text."""


class Conductor(Protocol):
    """The run of a grid, as an executor sees it."""

    def tokenise(self, items: Sequence[Planned]) -> None:
        """Tokenise the examples of cells before any of them runs, so that none is disturbed by it;
        for an executor that prepares some cells while others run on the same machine."""

    def begin(self, item: Planned) -> bool:
        """Show that a cell is next; false if it needs no device: `prepare`, called before anything
        else, leaves it out."""

    def prepare(self, item: Planned) -> CellRun | None:
        """The run of a cell; None if it is skipped, or has a result."""

    def waited(self, seconds: float) -> None:
        """Count a wait for other grids."""

    def ended(self, *rows: tuple[Planned, Row]) -> None:
        """Take over the rows of cells that have run."""


class Executor(Protocol):
    """Runs cells on devices of one or several kinds."""

    @property
    def kinds(self) -> Mapping[str, Found]:
        """The conditions under which cells run, by their id; those that are known so far."""

    @property
    def flags(self) -> str:
        """The flags with which a command runs there, in addition to those of devices."""

    def run(
        self,
        items: Sequence[Planned],
        conductor: Conductor,
        progress: Progress,
        signals: Signals,
    ) -> bool:
        """Run cells; returns true if the user stopped it.

        Args:
            items: the cells of a plan that are to run, in order.

        Raises:
            DeviceError: if no device is left.
            DiskFullError: if files can't be written.
            InputError: if cells can't be run at all.
            StoppedError: if a wait was ended by the user.
        """
