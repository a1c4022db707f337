"""What checks of a set of examples found, as `runs.data.json` and reports hold it."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

CONTROL: Final = "control characters"  # a key of `Checks.encoding`


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Affected(_Facts):
    """The examples with a kind of problem: how many there are, and the first few of them."""

    train: int = 0  # the number of examples
    dev: int = 0
    shown: tuple[str, ...] = ()  # texts of some, shortened, on one line each

    def without_texts(self) -> "Affected":
        return self.model_copy(update={"shown": ()})

    @property
    def total(self) -> int:
        return self.train + self.dev


class Lengths(_Facts):
    """The lengths of examples; of a pair, that of both texts together. Tokens include special ones,
    and nothing is cut. The last bin of the histogram has all that are longer, too."""

    unit: Literal["characters", "words", "tokens"]  # what is counted
    train: dict[str, int]  # percentiles, such as {"50": 21, "100": 64}
    dev: dict[str, int]
    step: int  # the width of the histogram's bins
    counts: tuple[int, ...]  # training examples by length, the first below `step`


class Checks(_Facts):
    """What checks of the training and dev examples found. The key of an example is its text,
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
