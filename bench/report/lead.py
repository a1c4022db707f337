"""The heading and the first lines of a group: what was compared, on what, and from which rows."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from bench.analysis.groups import Group, differing
from bench.common.errors import InputError
from bench.common.grouping import grouped
from bench.plan.cell import MULTITASK, Value
from bench.plan.columns import CORRELATED, PART_SCORES
from bench.plan.metrics import ROW_METRICS
from bench.plan.rows import Row
from bench.report.pages import phrase, sentences
from bench.report.recommendation import subject
from bench.report.text import plain
from bench.results.facts import NO_FACTS, KnownFacts
from minbert.data.tasks import TASKS

_UNKNOWN: Final = "a version not recorded"
_MOST: Final = 6  # versions, machines or settings that a sentence names


def title(group: Group) -> str:
    return f"Fine-tuning {subject(group)}"


def lead(group: Group, facts: KnownFacts = NO_FACTS) -> list[str]:
    """The first lines: modes, model and task, how many cells ended ok, caps, and the machine."""
    task, known = TASKS.get(str(group.shared("task"))), facts.get(str(group.shared("data_digest")))
    every = [setting for setting in group.settings if setting.scores]
    cells = grouped([row for row in group.rows if row.is_ok], lambda row: row.cell_id).values()
    return sentences(
        "lead", group=group, by_name=_by_name,
        seeds={len({row.seed for row in setting.ok}) for setting in group.settings if setting.ok},
        repeats={len({row.repeat or 1 for row in rows}) for rows in cells} or {1},
        several=any(len(setting.scores) > 1 for setting in every),
        is_kept=any(s.values.keys() == s.scores.keys() for s in every if len(s.scores) > 1),
        is_joined=all(s.values.keys() == s.scores.keys() for s in every), scored=every,
        row_metrics=ROW_METRICS, multitask=MULTITASK, notes=task.notes if task else (),
        parts=[part for part, name in PART_SCORES.items() if group.shared(name) is not None],
        correlated=CORRELATED,
        examples=known.train if known and group.folds is None else group.shared("max_train"),
        caution=plain(known.caution(group.metric)) if known else "",
        machines={
            (at, row.seed, row.fold): row.machine or "a machine not recorded"
            for at, setting in enumerate(group.settings) for row in setting.elsewhere
        },
    )  # fmt: skip


def differences(group: Group, first: Group) -> list[tuple[str, Value, Value]]:
    return [(n, group.shared(n), first.shared(n)) for n in differing(group, first)]


def differs(group: Group, first: Group, encoders: Group | None = None) -> str:
    is_encoder = encoders is not None and group in encoders.encoders.values()
    return phrase("groups", "differs", differences(group, first), is_encoder)


def of_version(rows: Sequence[Row], version: str) -> list[Row]:
    """The rows of one version of the code; InputError if there are none."""
    selected = [row for row in rows if row.code_version == version]
    if rows and not selected:
        versions = _by_name(row.code_version or _UNKNOWN for row in rows)
        raise InputError(f"--code-version: no row is of {version!r}; there are {versions}")
    return selected


def versions(rows: Iterable[Row], only: str | None, left_out: int) -> list[str]:
    """A sentence on the versions of the code, if there are several, or one alone is shown."""
    if only is not None:
        return [phrase("groups", "version", plain(only), left_out)]
    names = [str(row.code_version or _UNKNOWN) for row in rows]
    number = len(set(names))
    return [phrase("groups", "versions", number, _by_name(names))] if number > 1 else []


def _by_name(names: Iterable[object]) -> str:
    return phrase("groups", "by_name", Counter(map(str, names)).most_common(), _MOST)


def unlearned(group: Group) -> list[str]:
    """A sentence on the settings that are flagged `not_learned`, if there are any."""
    every = len(group.unlearned) == sum(bool(setting.ok) for setting in group.settings)
    return [line] if (line := phrase("groups", "unlearned", group, every, _MOST)) else []
