"""Claims files: TOML that states hypotheses before their rows are there (docs/claims.md)."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, Field, ValidationError, model_validator

from bench.common.errors import InputError
from bench.common.files import below
from bench.plan.columns import BY_NAME, NAMES, format_value, parse_value
from bench.plan.gridfile import Strict, first_problem, parse_table, read_toml
from bench.plan.rows import Row

SCORE: Final = "dev_score"
_MOST_PRIMARY: Final = 7
_KIND: Final = "claims file"


def _column(name: str) -> str:
    if name not in BY_NAME:
        near = ", ".join(get_close_matches(name, NAMES, cutoff=0.4) or NAMES[-3:])
        raise ValueError(f"no such column; near it are {near}")
    return name


def _values(of: dict[str, Any]) -> dict[str, Any]:
    """Values as rows have them; an empty text is None."""

    def parsed(name: str, value: Any) -> Any:
        if value == []:
            raise ValueError(f"the list of {name} is empty")
        if isinstance(value, list):
            return [parsed(name, one) for one in value]
        return parse_value(name, format_value(value))

    return {name: parsed(_column(name), value) for name, value in of.items()}


Column = Annotated[str, AfterValidator(_column)]
Scalar = str | int | float | None
Values = Annotated[dict[str, Scalar], AfterValidator(_values)]
Choices = Annotated[dict[str, Scalar | list[Scalar]], AfterValidator(_values)]
Text = Annotated[str, Field(min_length=1)]


class Claim(Strict):
    """A hypothesis on NEW against BASE: the mean over tasks of equal weight of the difference of
    scores, of which more is better, or of the ratio of a cost, is at least or at most `margin`.
    docs/claims.md says what its keys mean."""

    id: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*$")]
    sentence: Text
    hypothesis: Text
    scope: Text
    primary: bool = False
    runs: Annotated[list[Text], Field(min_length=1)]
    rows: Choices = Field(default={})
    base: Values
    new: Values
    differ: list[Column] = Field(default=[])
    tasks: Annotated[list[Text], Field(min_length=1)]
    column: Literal["dev_score", "ms_per_1k_tokens", "peak_rss_mib", "peak_cuda_allocated_mib"]
    direction: Literal["at least", "at most"]
    margin: str
    pairs: Annotated[int, Field(ge=3)]
    power: Text
    command: Text

    @model_validator(mode="after")
    def _margin_has_a_unit_of_the_column(self) -> Self:
        form, example = (
            (r"-?\d{1,9}(\.\d+)?(pt|%)", "-1pt")
            if self.column == SCORE
            else (r"\d{1,9}(\.\d+)?x", "0.5x")
        )
        if not re.fullmatch(form, self.margin) or (self.column != SCORE and self.limit <= 0):
            raise ValueError(
                f"margin {self.margin!r} of {self.column} has not its unit; write it as {example}"
            )
        return self

    def files(self, folder: Path) -> list[Path]:
        """The CSVs that it names, in the folder of its file. InputError as of `below`."""
        return [below(folder, *name.split("/")) for name in self.runs]

    @property
    def limit(self) -> float:
        """The margin in its unit."""
        return float(self.margin.rstrip("pt%x"))


class Claims(Strict):
    claim: Annotated[list[Claim], Field(min_length=1)]

    @model_validator(mode="after")
    def _are_few_and_distinct(self) -> Self:
        ids = [claim.id for claim in self.claim]
        if twice := sorted({one for one in ids if ids.count(one) > 1}):
            raise ValueError(f"two claims have the id {twice[0]}")
        if (number := sum(claim.primary for claim in self.claim)) > _MOST_PRIMARY:
            raise ValueError(f"{number} claims are primary; {_MOST_PRIMARY} are the most")
        return self


def accepts(values: Mapping[str, Scalar | list[Scalar]], row: Row) -> bool:
    """Whether a row has these values, of a list one of them."""
    return all(
        row[name] in (value if isinstance(value, list) else [value])
        for name, value in values.items()
    )


def shown(values: Mapping[str, Scalar | list[Scalar]]) -> str:
    """Values as text, such as `mode lora, rank 1 or 8`."""
    texts = (
        (name, map(format_value, value if isinstance(value, list) else [value]))
        for name, value in values.items()
    )
    return ", ".join(f"{name} {' or '.join(one or 'empty' for one in of)}" for name, of in texts)


def load(path: Path) -> list[Claim]:
    """The claims of a file; InputError if it can't be read, and for an unknown key or column, a
    wrong value or a margin without its unit."""
    table = parse_table(read_toml(path, _KIND), str(path), _KIND)
    try:
        return Claims.model_validate(table).claim
    except ValidationError as error:
        known = Claim.model_fields if len(error.errors()[0]["loc"]) > 1 else Claims.model_fields
        raise InputError(f"{path}: {first_problem(error, known)}") from error
