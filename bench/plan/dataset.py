"""The user's own data, as the table `[data]` of a grid file or the flags describe it."""

from pathlib import Path
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

from bench.plan.problems import Problem

HUB: Final = "hub:"
"""The beginning of a path that names a data set on the Hugging Face hub."""

_Text = Annotated[str, Field(min_length=1)]


class DataSpec(BaseModel):
    """Where examples are read from, and the roles of their columns; None: inferred.

    Attributes:
        path: a file, a folder, or `hub:USER/NAME[@REVISION]`.
        config: the configuration of a data set on the hub.
        text, text_pair, label, group: names of columns.
        classes: the classes in their order; without them numbers are in their order, and words in
            that of the alphabet.
        validation, test: files like `path`.
        drop_leaks: whether training examples are dropped whose text is in the dev examples too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    path: _Text
    config: _Text | None = None
    text: _Text | None = None
    text_pair: _Text | None = None
    label: _Text | None = None
    group: _Text | None = None
    problem: Problem | None = None
    classes: tuple[_Text, ...] = ()
    validation: _Text | None = None
    test: _Text | None = None
    drop_leaks: bool = False

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
        """Whether the data set is on the Hugging Face hub."""
        return self.path.startswith(HUB)
