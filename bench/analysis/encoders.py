"""Groups that differ in the encoder alone, and all their settings as one group."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

from bench.analysis.groups import Group, differing
from bench.common.grouping import grouped
from bench.plan.cell import Value, named

FOLLOWING: Final = (
    "model_digest", "pooling", "max_length", "engine", "engine_version", "attn_implementation",
    "kernels",
)  # fmt: skip
"""Settings of a group that may follow from its encoder."""
_SHARED: Final = (
    "conditions_id",
    *(n for n in named(lambda about: about.compared in ("group", "never")) if n not in FOLLOWING),
)


class EncoderGroup(Group):
    """The settings of several encoders, which name theirs. The time is that of a whole training:
    tokenizers make other tokens of the same texts."""

    @property
    def time_column(self) -> str:
        """As `Group.time_column`."""
        return "train_s"


@dataclass(frozen=True, eq=False)
class Encoders:
    """Encoders that were measured under the same conditions on the same data.

    Attributes:
        groups: those of each encoder, by its name.
        joined: the settings of all.
    """

    groups: dict[str, Group]
    joined: EncoderGroup


def encoders_of(groups: Sequence[Group]) -> Encoders | None:
    """The encoders that can be compared with that of the first group; None without any other.

    Of several groups of an encoder, the one that differs least from the first counts.
    """
    if not groups:
        return None
    first = groups[0]
    alike = [group for group in groups if group.ok and _shared(group) == _shared(first)]
    by_model = grouped(alike, lambda group: group.shared("model_digest"))
    if len(by_model) < 2 or first.shared("model_digest") not in by_model:
        return None
    nearest = [min(own, key=lambda one: len(differing(one, first))) for own in by_model.values()]
    labels = [str(group.shared("model")) for group in nearest]
    digests = [str(group.shared("model_digest"))[:6] for group in nearest]
    by_name = {
        label if labels.count(label) == 1 else f"{label}@{digest}": group
        for label, digest, group in zip(labels, digests, nearest, strict=True)
    }
    rows = tuple(row for group in nearest for row in group.rows)
    settings = tuple(
        replace(s, encoder=name) for name, group in by_name.items() for s in group.settings
    )
    return Encoders(by_name, EncoderGroup(rows, settings))


def decided_over(groups: Sequence[Group]) -> Group:
    """The settings that a recommendation is among: the first group's, with those of other encoders
    if there are any."""
    encoders = encoders_of(groups)
    return groups[0] if encoders is None else encoders.joined


def _shared(group: Group) -> tuple[Value, ...]:
    row = group.first
    values = [row.conditions_id, *(row[name] for name in _SHARED if name != "regression_loss")]
    return (*values, row.regression_loss or "mse")
