"""A section of the report or of another command's page."""

from collections.abc import Sequence
from dataclasses import dataclass

from bench.report.drawing import Drawing
from bench.report.tables import Table


@dataclass(frozen=True)
class Section:
    """A section of the report; `short` is its name in the table of contents."""

    anchor: str
    short: str
    heading: str
    said: Sequence[str] = ()
    drawings: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()
