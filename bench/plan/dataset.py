"""A set of examples: the user's own, as the table `[data]` of a grid file or the flags describe it;
and the findings of checks on one, as `runs.data.json` and reports hold it."""

import csv
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, Literal

from pydantic import BaseModel, Field

from bench.plan.metrics import PROBLEM_NAMES

HUB: Final = "hub:"  # the beginning of a path that names a data set on the Hugging Face hub
CONTROL: Final = "control characters"  # a key of `Checks.encoding`

_Text = Annotated[str, Field(min_length=1)]
if TYPE_CHECKING:
    _Problem = str
else:  # whose plugins a type checker can't know
    _Problem = Literal[PROBLEM_NAMES]


class DataSpec(BaseModel, extra="forbid", frozen=True):
    """Where examples are read from, and the roles of their columns; None: inferred."""

    path: _Text  # a file, a folder, or hub:USER/NAME[@REVISION]
    config: _Text | None = None  # of a data set on the hub
    text: _Text | None = None  # the name of a column, as are the next three
    text_pair: _Text | None = None
    label: _Text | None = None
    group: _Text | None = None
    problem: _Problem | None = None
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

    @property
    def given(self) -> dict[str, str]:
        """What a command line that repeats it has, by field: of absolute paths only the names, and
        nothing for a flag without a value."""
        values = self.model_dump(exclude_defaults=True, exclude={"test"})
        if self.classes:
            csv.writer(line := StringIO(), lineterminator="").writerow(self.classes)
            values["classes"] = line.getvalue()
        for name in values.keys() & {"path", "validation"}:
            if Path(values[name]).is_absolute():
                values[name] = Path(values[name]).name
        return {name: "" if value is True else value for name, value in values.items()}


class Affected(BaseModel, extra="forbid", frozen=True):
    """The examples with a kind of problem: how many there are, and the first few of them."""

    train: int = 0  # the number of examples
    dev: int = 0
    shown: tuple[str, ...] = ()  # texts of some, shortened, on one line each

    def without_texts(self) -> "Affected":
        return self.model_copy(update={"shown": ()})

    @property
    def total(self) -> int:
        return self.train + self.dev


class Lengths(BaseModel, extra="forbid", frozen=True):
    """The lengths of examples; of a pair, that of both texts together. Tokens include special ones,
    and nothing is cut. The last bin of the histogram has all that are longer, too."""

    unit: Literal["characters", "words", "tokens"]  # what is counted
    train: dict[str, int]  # percentiles, such as {"50": 21, "100": 64}
    dev: dict[str, int]
    step: int  # the width of the histogram's bins
    counts: tuple[int, ...]  # training examples by length, the first below `step`


class Checks(BaseModel, extra="forbid", frozen=True):
    """Findings of the checks on training and dev examples. The key of an example is its text,
    normalised: words without case and punctuation; of a pair, both texts."""

    duplicates: Affected  # of an earlier example of the same side, by key
    leaks: Affected  # training examples whose key a dev example has, and those dev examples
    near_duplicates: Affected  # distinct texts that have a near duplicate on their side
    near_leaks: Affected  # distinct texts that have a near duplicate on the other side
    compared: int  # distinct texts among which near duplicates were searched
    distinct: int  # all distinct texts
    conflicts: Affected  # whose key has several labels, in train and dev together
    empty: Affected  # with a text of no characters but white space
    encoding: dict[str, Affected]  # that seem to have been decoded wrongly, by kind
    lengths: tuple[Lengths, ...]  # in characters, words and, with a tokenizer, tokens
    max_length: int | None = None  # the least multiple of 8 that cuts under 1%; None: no tokenizer
    tokens_cut: float | None = None  # the share of the training examples' tokens that it cuts

    def without_texts(self) -> "Checks":
        """The same without texts, which are the user's and not for a file of results."""
        hidden = {name: one.without_texts() for name, one in self if isinstance(one, Affected)}
        encoding = {name: one.without_texts() for name, one in self.encoding.items()}
        return self.model_copy(update={**hidden, "encoding": encoding})
