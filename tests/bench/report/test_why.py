"""The section on why adapters take the memory and time that they take."""

from bench.analysis.groups import groups
from bench.report.why import why_section
from bench.results.facts import NO_FACTS
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import cell, result_row, synthetic_rows

OLDER = dict.fromkeys(("forward_ms", "backward_ms", "optimizer_ms"))


def measured(axes, peak, owned, time, step):
    """A row with the parts of its memory and of its step."""
    weights, optimizer, gradients, activations = owned
    forward, backward, of_optimizer = step
    row = result_row(cell(*axes, "off"))
    return row | {
        "peak_rss_mib": peak, "peak_anon_mib": peak - 100, "imports_anon_mib": 150.0,
        "weights_mib": weights, "optimizer_mib": optimizer, "gradients_mib": gradients,
        "activations_mib": activations, "ms_per_1k_tokens": time, "step_ms_median": 2 * time,
        "forward_ms": forward, "backward_ms": backward, "optimizer_ms": of_optimizer,
        "ms_per_1k_tokens_ci_low": 0.99 * time, "ms_per_1k_tokens_ci_high": 1.01 * time,
    }  # fmt: skip


FULL = measured(("full", None, None), 1200.0, (86.0, 172.0, 86.0, 400.0), 200.0, (60, 130, 10))
SLOW = measured(
    ("lora", 8, "all-lin"), 1300.0, (87.0, 150.0, 80.0, 390.0), 250.0, (99.0, 150.0, 1.0)
)


def rows_of(*, activations=400.0, backward=30.0):
    """Full fine-tuning, the head alone, LoRA and DoRA, of which LoRA has these parts."""
    owned, step = (87.0, 2.0, 1.0, activations), (99.0, backward, 1.0)
    return [
        FULL,
        measured(("head", None, None), 500.0, (86.0, 0.0, 0.0, 0.0), 50.0, (49.0, 0.0, 1.0)),
        measured(("lora", 8, "all-lin-only"), 900.0, owned, 100.0 + backward, step),
        measured(("dora", 8, "all-lin-only"), 950.0, owned, 140.0, (99.0, 40.0, 1.0)),
    ]


def test_sentences_table_and_picture_follow_from_the_rows():
    on_gpu = [
        row | {"device": "cuda:0", "peak_cuda_allocated_mib": float(row["peak_rss_mib"] or 0) - 300}
        for row in rows_of()
    ]
    large = {"imports_anon_mib": 700.0, "peak_anon_mib": 1100.0, "peak_rss_mib": 1700.0}
    full, *others = rows_of()
    check_snapshot("why", {
        title: why_section(groups(rows)[0], None, NO_FACTS) for title, rows in {
            "adapters that keep activations": rows_of(),
            "adapters that keep few and save no time": rows_of(activations=100, backward=140),
            "four fifths of activations are most": [*rows_of(activations=320.0), SLOW],
            "the largest part is saved by nothing": [row | large for row in rows_of()],
            "parts exceed the peak": [FULL | {"activations_mib": 700.0}],
            "one older row lacks the parts of a step": [full | OLDER, *others],
            "all do": [row | OLDER for row in rows_of()],
            "on a GPU": on_gpu,
        }.items()
    })  # fmt: skip
    assert why_section(groups(synthetic_rows(68))[0], None, NO_FACTS) == [], "without any parts"
