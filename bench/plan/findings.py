"""What checks of a set of examples found, as `runs.data.json` and reports hold it."""

from typing import Final, Literal

from pydantic import BaseModel, ConfigDict

CONTROL: Final = "control characters"
"""A key of `Checks.encoding`."""


class _Facts(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Affected(_Facts):
    """The examples with a kind of problem: how many there are, and the first few of them.

    Attributes:
        train, dev: numbers of examples.
        shown: texts of some, shortened, on one line each.
    """

    train: int = 0
    dev: int = 0
    shown: tuple[str, ...] = ()

    def without_texts(self) -> "Affected":
        """The same numbers, and no text."""
        return self.model_copy(update={"shown": ()})

    @property
    def total(self) -> int:
        """The number of examples on both sides."""
        return self.train + self.dev


class Lengths(_Facts):
    """The lengths of examples; of a pair, that of both texts together.

    Attributes:
        unit: what is counted. Tokens include special ones, and nothing is cut.
        train, dev: percentiles, such as `{"50": 21, "100": 64}`.
        step: width of the histogram's bins.
        counts: training examples by length: below `step`, from there to below `2 * step`, and so
            on; the last bin has all that are longer, too.
    """

    unit: Literal["characters", "words", "tokens"]
    train: dict[str, int]
    dev: dict[str, int]
    step: int
    counts: tuple[int, ...]


class Checks(_Facts):
    """What checks of the training and dev examples found.

    The key of an example is its text, normalised: words without case and punctuation; of a pair,
    both texts.

    Attributes:
        duplicates: examples whose key an earlier one of the same side has.
        leaks: training examples whose key a dev example has, and those dev examples.
        near_duplicates: distinct texts that have a near duplicate on their side.
        near_leaks: distinct training texts that have a near duplicate in dev, and those dev texts.
        compared, distinct: distinct texts among which near duplicates were searched, and all.
        conflicts: examples whose key has several labels, in train and dev together.
        empty: examples with a text of no characters but white space.
        encoding: examples whose text seems to have been decoded wrongly, by kind.
        lengths: in characters, words and, if a tokenizer was given, tokens.
        max_length: smallest multiple of 8 that cuts under 1% of the tokens of the training
            examples, at most the model's positions; None without a tokenizer.
        tokens_cut: share of these tokens that it cuts.
    """

    duplicates: Affected
    leaks: Affected
    near_duplicates: Affected
    near_leaks: Affected
    compared: int
    distinct: int
    conflicts: Affected
    empty: Affected
    encoding: dict[str, Affected]
    lengths: tuple[Lengths, ...]
    max_length: int | None = None
    tokens_cut: float | None = None

    def without_texts(self) -> "Checks":
        """The same without texts, which are the user's and not for a file of results."""
        hidden: dict[str, object] = {
            name: value.without_texts() for name, value in self if isinstance(value, Affected)
        }
        hidden["encoding"] = {name: one.without_texts() for name, one in self.encoding.items()}
        return self.model_copy(update=hidden)
