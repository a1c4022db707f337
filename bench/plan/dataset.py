"""The user's own data, as the table `[data]` of a grid file or the flags describe it."""

from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from bench.plan.problems import Problem

HUB: Final = "hub:"  # the beginning of a path that names a data set on the Hugging Face hub

_Text = Annotated[str, Field(min_length=1)]


class DataSpec(BaseModel):
    """Where examples are read from, and the roles of their columns; None: inferred."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: _Text  # a file, a folder, or hub:USER/NAME[@REVISION]
    config: _Text | None = None  # of a data set on the hub
    text: _Text | None = None  # the name of a column, as are the next three
    text_pair: _Text | None = None
    label: _Text | None = None
    group: _Text | None = None
    problem: Problem | None = None
    classes: tuple[_Text, ...] = ()  # in order; else numbers in theirs, words by the alphabet
    validation: _Text | None = None  # a file like `path`, as is `test`
    test: _Text | None = None
    drop_leaks: bool = False  # whether training examples are dropped whose text is in dev too

    def inside(self, folder: Path) -> "DataSpec":
        """The same, with relative paths taken from a folder."""
        paths = {
            name: str(folder / value)
            for name in ("path", "validation", "test")
            if (value := getattr(self, name)) is not None and not value.startswith(HUB)
        }
        return self.model_copy(update=paths)

    @property
    def is_on_hub(self) -> bool:
        return self.path.startswith(HUB)
