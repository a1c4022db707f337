"""The facts on a set of examples, as far as they need no training."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from bench.examples.checks import STEPS, check
from bench.examples.lengths import token_lengths
from bench.examples.tokenizers import Encoder
from bench.results.facts import DataFacts, facts_of
from minbert.data.tasks import TaskData
from minbert.files import vocabulary_digest

TOKENISING: Final = "tokens"
FACT_STEPS: Final = 1 + len(STEPS)
"""The number of steps of `find_facts`."""


def find_facts(
    data: TaskData,
    source: str,
    encoder: Encoder,
    tokens_of: str,
    longest: int,
    show: Callable[[int, str], None] = lambda _number, _name: None,
) -> DataFacts:
    """The facts on a task's examples, in tokens of a model.

    Args:
        source: as in `DataFacts`.
        encoder: the model's tokenizer.
        tokens_of: as in `DataFacts`.
        longest: the model's positions.
        show: called as each step begins, with its number and name.
    """
    show(0, TOKENISING)
    tokens = token_lengths(data.train, encoder), token_lengths(data.dev, encoder)
    checks = check(data, tokens, longest, lambda number, name: show(number + 1, name))
    facts = facts_of(data, source, checks)
    return facts.model_copy(update={"tokens_of": tokens_of})


def tokens_of(tokenizer: Path, longest: int) -> str:
    """`DataFacts.tokens_of` of a model.

    Raises:
        InputError: of `minbert`, for a vocabulary that can't be used.
    """
    return f"{vocabulary_digest(tokenizer)[:16]}, {longest}"
