"""The heading and the first lines of a group: what was compared, on what, and from which rows."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from bench.analysis.encoders import Encoders
from bench.analysis.groups import Group, differing
from bench.analysis.setting import number
from bench.common.errors import InputError
from bench.plan.cell import MULTITASK, Value
from bench.plan.columns import CORRELATED, PART_SCORES
from bench.plan.metrics import ROW_METRICS
from bench.plan.rows import Row
from bench.report.text import count, counted, plain, setting_value
from bench.results.facts import DataFacts
from minbert.data.tasks import TASKS

_UNKNOWN: Final = "a version not recorded"
_MOST: Final = 6
"""Versions, machines or settings that a sentence names."""


def title(group: Group) -> str:
    """The report's heading: the model and the task that were compared."""
    models = dict.fromkeys(s.encoder or _known(group, "model") for s in group.settings)
    return f"Fine-tuning {', '.join(models)} on {_known(group, 'task')}"


def encoders(compared: Encoders, first: Group) -> list[str]:
    """A sentence on the encoders that are compared."""
    name = next((name for name, group in compared.groups.items() if group is first), "")
    return [
        f"Encoders: {', '.join(compared.groups)}, measured under the same conditions on the same "
        f"data. The sections after the one on encoders are about {name}."
    ]


def lead(group: Group, facts: Mapping[str, DataFacts] = MappingProxyType({})) -> list[str]:
    """The first lines: modes, model and task, how many cells ended ok, caps, and the machine."""
    modes = list(dict.fromkeys(setting.mode for setting in group.settings))
    init = "" if group.shared("init") == "pretrained" else " with random weights"
    scored = f", scored by {group.scoring.label} on dev" if group.has_quality else ""
    first = (
        f"Compared: {', '.join(modes)} on the model {_known(group, 'model')}{init} and the task "
        f"{_known(group, 'task')}{scored}. {group.ok:,} of {counted(group.rows)} ended ok, "
        f"{_seeds(group)}{_folds(group)} for each setting{_repeats(group)}"
        f"{_intervals(group)}."
    )
    device = _known(group, "device")
    gpu = f" ({_known(group, 'device_name')})" if device.startswith("cuda") else ""
    machine = (
        f"Machine: {_known(group, 'machine')}; device {device}{gpu}; "
        f"torch {_known(group, 'torch_version')}, threads {_known(group, 'threads')}."
    )
    task = TASKS.get(str(group.shared("task")))
    notes = [f"{note[:1].upper()}{note[1:]}." for note in (task.notes if task else ())]
    about = [*(of(group) for of in (_overall, _joined)), _caps(group, facts), _cut(group)]
    lines = [first, _metric(group, facts), *about, *notes, machine, _elsewhere(group)]
    return [line for line in lines if line]


def _known(group: Group, column: str) -> str:
    value = group.shared(column)
    return "not recorded" if value is None else str(value)


def _seeds(group: Group) -> str:
    numbers = {len({row.seed for row in setting.ok}) for setting in group.settings if setting.ok}
    up_to = "up to " if len(numbers) > 1 else ""
    return f"{up_to}{count(group.seeds, 'seed')}"


def _folds(group: Group) -> str:
    return "" if group.folds is None else f" of {group.folds} folds"


def _repeats(group: Group) -> str:
    by_cell: dict[Value, set[Value]] = {}
    for row in group.rows:
        if row.is_ok:
            by_cell.setdefault(row.cell_id, set()).add(row.repeat or 1)
    numbers = set(map(len, by_cell.values()))
    most = max(numbers, default=0)
    up_to = "up to " if len(numbers) > 1 else ""
    return f", {up_to}{most} repeats of each" if most > 1 else ""


def _intervals(group: Group) -> str:
    """The variation that the intervals of several seeds or folds cover, in brackets."""
    if group.seeds < 2:
        return "" if group.folds is None else " (intervals of costs are over folds)"
    several = [s for s in group.settings if len(s.scores) > 1]
    if not several:
        return " (intervals are over runs)"
    kept = [s.values.keys() == s.scores.keys() for s in several]
    examples = ", and over dev examples where predictions are kept" if any(kept) else ""
    return f" (intervals of costs are over runs, those of scores over seeds{examples})"


def _metric(group: Group, facts: Mapping[str, DataFacts]) -> str:
    """What the metric is, if it was chosen for the report, with a warning on small classes."""
    if not group.has_quality or group.metric in ROW_METRICS:
        return ""
    label, known = group.scoring.label, facts.get(str(group.shared("data_digest")))
    caution = known.caution(group.metric) if known else ""
    return (
        f"{label[:1].upper()}{label[1:]} is the {group.scoring.about}. It was chosen for this "
        "report and computed from kept predictions; flags are those of each row's own metric."
        f"{f' Warning: {plain(caution)}.' if caution else ''}"
    )


def _overall(group: Group) -> str:
    """The mean that a score over several parts is."""
    scores = [
        f"(1 + r) / 2 of the correlation r on {part}"
        if part in CORRELATED
        else f"the accuracy on {part}"
        for part, column in PART_SCORES.items()
        if group.shared(column) is not None
    ]
    return f"Overall is the mean of {', '.join(scores)}." if scores else ""


def _joined(group: Group) -> str:
    """What the score of several folds is."""
    scored = [setting for setting in group.settings if setting.scores]
    if group.folds is None or not scored:
        return ""
    if all(setting.values.keys() == setting.scores.keys() for setting in scored):
        return f"A score is that of the predictions on all {group.folds} folds together."
    return (
        f"A score is that of the predictions on all {group.folds} folds together or, where these "
        "are not known, the mean of the folds' scores."
    )


def _caps(group: Group, facts: Mapping[str, DataFacts]) -> str:
    """How much data and how many steps each cell had."""
    known = facts.get(str(group.shared("data_digest")))
    train, dev, steps = (group.shared(name) for name in ("max_train", "max_dev", "max_steps"))
    parts = group.shared("task") == MULTITASK
    whose, its = ("each part's", "each part's") if parts else ("the task's", "its")
    if group.folds is not None:
        share = f"{train:,}" if train else "all"
        share += " of the examples outside the fold that is scored"
    else:
        share = f"{train:,} of {whose} examples" if train else "all of the task's training examples"
    epochs, batch = group.shared("epochs"), group.shared("batch_size")
    every = number(known.train if known and group.folds is None else train)
    seen = (number(steps) or 0) * (number(batch) or 0)
    in_steps = f"{count(int(steps), 'step')} of {batch or 'some'} examples" if steps else ""
    if every and 0 < seen < every and not parts:
        sentence = f"Trained on {seen:,.0f} of {every:,.0f} examples, in {in_steps}"
    else:
        sentence = f"Trained on {share}" + (f", {count(int(epochs), 'epoch')}" if epochs else "")
        sentence += f", and for {in_steps} at most" if steps else ""
    if dev:
        of = f"{its} dev examples" if group.folds is None else "each fold's examples"
        sentence += f"; scored on {dev:,} of {of}"
    if group.has_quality and (steps or train):
        sentence += ". Capped, so scores may be lower than those of full training"
    return sentence + "."


def _cut(group: Group) -> str:
    """How many texts were cut, if some were."""
    texts, share = number(group.shared("texts_cut")), number(group.shared("tokens_cut"))
    if not texts:
        return ""
    lost = "" if share is None else f"; {share:.2%} of tokens cut"
    verb = "text is" if texts == 1 else "texts are"
    return f"{texts:,.0f} {verb} longer than max_length {_known(group, 'max_length')}{lost}."


def _elsewhere(group: Group) -> str:
    """The number of scores that a group has from other machines, if any."""
    machines = {
        (at, row.seed, row.fold): row.machine or "a machine not recorded"
        for at, setting in enumerate(group.settings)
        for row in setting.elsewhere
    }
    if not machines:
        return ""
    what = "seeds" if group.folds is None else "folds"
    return (
        f"{count(len(machines), 'score')} of {what} that have none here, and no costs, "
        f"{'is' if len(machines) == 1 else 'are'} from elsewhere, with the same software: "
        f"{_by_name(machines.values())}."
    )


def differences(group: Group, first: Group) -> str:
    """The columns in which a group differs from the first, and how."""
    parts = []
    for name in differing(group, first):
        here, there = (setting_value(one.shared(name)) for one in (group, first))
        parts.append(f"{name} ({here} instead of {there})")
    return ", ".join(parts)


def differs(group: Group, first: Group, encoders: Encoders | None = None) -> str:
    """A sentence on the columns in which a group differs from the first."""
    different = differences(group, first)
    if encoders is not None and group in encoders.groups.values():
        return f"Another encoder than the first group's, compared above: it differs in {different}."
    return f"Not comparable with the first group, from which it differs in {different}."


def of_version(rows: Sequence[Row], version: str) -> list[Row]:
    """The rows of one version of the code.

    Raises:
        InputError: if there are none.
    """
    selected = [row for row in rows if row.code_version == version]
    if rows and not selected:
        versions = _by_name(row.code_version or _UNKNOWN for row in rows)
        raise InputError(f"--code-version: no row is of {version!r}; there are {versions}")
    return selected


def versions(rows: Iterable[Row]) -> list[str]:
    """A sentence on the versions of the code, if the rows are of several."""
    names = [str(row.code_version or _UNKNOWN) for row in rows]
    if len(set(names)) < 2:
        return []
    return [
        f"The rows are of {len(set(names))} versions of the code: {_by_name(names)}. All "
        "runs of a cell count, of any version; --code-version shows one version alone."
    ]


def _by_name(names: Iterable[object]) -> str:
    """The number of times that each name occurs."""
    counts = Counter(map(str, names)).most_common()
    named = ", ".join(f"{number:,} of {name}" for name, number in counts[:_MOST])
    return named + (f" and {len(counts) - _MOST} more" if len(counts) > _MOST else "")


def unlearned(group: Group) -> list[str]:
    """A sentence on the settings that are flagged `not_learned`, if there are any."""
    flagged = group.unlearned
    if not flagged:
        return []
    if not group.learned:
        every = len(flagged) == sum(bool(setting.ok) for setting in group.settings)
        who = "No setting is" if every else "No setting but full fine-tuning is"
        return [
            f"{who} shown to have learned anything: {'all' if every else 'the others'} are flagged "
            "not_learned. So scores are not compared, and costs show what is cheap here, not what "
            "is good."
        ]
    names = [setting.label for setting in flagged[:_MOST]]
    more = f" and {len(flagged) - _MOST} more" if len(flagged) > _MOST else ""
    verb = "is" if len(flagged) == 1 else "are"
    return [
        f"{len(flagged)} of {count(len(group.settings), 'setting')} {verb} flagged not_learned: "
        f"{'; '.join(names)}{more}."
    ]
