"""The section on why adapters take the memory and time that they take."""

import random
import re

import pytest

from bench.analysis.groups import Group, groups
from bench.plan.rows import Row
from bench.report.sections import Section
from bench.report.why import why_section
from tests.bench.synthetic_rows import cell, result_row, synthetic_rows
from tests.reference_run import reference_group


def measured(
    row: Row, peak: float, owned: tuple[float, ...], time: float, step: tuple[float, ...]
) -> Row:
    """A row with the parts of its memory and of its step."""
    weights, optimizer, gradients, activations = owned
    forward, backward, of_optimizer = step
    return row | {
        "peak_rss_mib": peak, "peak_anon_mib": peak - 100, "imports_anon_mib": 150.0,
        "weights_mib": weights, "optimizer_mib": optimizer, "gradients_mib": gradients,
        "activations_mib": activations, "ms_per_1k_tokens": time, "step_ms_median": 2 * time,
        "forward_ms": forward, "backward_ms": backward, "optimizer_ms": of_optimizer,
        "ms_per_1k_tokens_ci_low": 0.99 * time, "ms_per_1k_tokens_ci_high": 1.01 * time,
    }  # fmt: skip


def rows_of(*, activations: float = 400.0, backward: float = 30.0) -> list[Row]:
    """Full fine-tuning, the head alone, LoRA and DoRA, of which LoRA has these parts."""
    noise = random.Random(0)  # noqa: S311

    def row(mode: str, rank: int | None = None, layers: str | None = None) -> Row:
        return result_row(cell(mode, rank, layers, "off"), noise)

    lora, dora = row("lora", 8, "all-lin-only"), row("dora", 8, "all-lin-only")
    owned = (87.0, 2.0, 1.0, activations)
    return [
        measured(row("full"), 1200.0, (86.0, 172.0, 86.0, 400.0), 200.0, (60.0, 130.0, 10.0)),
        measured(row("head"), 500.0, (86.0, 0.0, 0.0, 0.0), 50.0, (49.0, 0.0, 1.0)),
        measured(lora, 900.0, owned, 100.0 + backward, (99.0, backward, 1.0)),
        measured(dora, 950.0, owned, 140.0, (99.0, 40.0, 1.0)),
    ]


def section_of(rows: list[Row]) -> Section:
    [group] = groups(rows)
    [section] = why_section(group)
    return section


def test_the_sentences_say_what_is_saved_and_what_is_not() -> None:
    section = section_of(rows_of())
    assert section.heading == (
        "Why: gradients and optimizer state are 22% of the memory of full fine-tuning in fp32, "
        "activations 33%; backward is 65% of its step"
    )
    assert section.said == [
        "Adapters keep 100% of full fine-tuning's activations: the backward pass still goes "
        "through every layer.",
        "Forward, which uses frozen weights too, takes 165% of full fine-tuning's time, and "
        "backward 23%: gradients of frozen weights are not computed, those of activations are.",
        "Against full fine-tuning in fp32, lora rank 8 on all-lin-only takes 300 MiB less "
        "(gradients and optimizer state 3 instead of 258, the rest 160 instead of 206) and 70 ms "
        "less for 1,000 tokens (backward 30 instead of 130, forward 99 instead of 60, optimizer 1 "
        "instead of 10).",
        "dora against lora on the same layers: +50 MiB, mostly in the rest; +10 ms for 1,000 "
        "tokens, mostly in backward.",
        "The head alone has no backward pass through the encoder: activations, gradients and "
        "optimizer state take 0 MiB, and forward is 98% of its step.",
    ]


def test_the_reasons_follow_from_the_rows() -> None:
    memory, time, *_ = section_of(rows_of(activations=100.0, backward=140.0)).said
    assert memory.startswith("Adapters keep 25% of full fine-tuning's activations: frozen layers ")
    assert time.endswith("as long as the gradients of frozen weights that they save.")


def test_four_fifths_of_the_activations_are_most_and_one_faster_adapter_is_enough() -> None:
    rows, noise = rows_of(activations=320.0), random.Random(0)  # noqa: S311
    slow = result_row(cell("lora", 8, "all-lin", "off"), noise)
    owned, step = (87.0, 150.0, 80.0, 390.0), (99.0, 150.0, 1.0)
    memory, time, *_ = section_of([*rows, measured(slow, 1300.0, owned, 250.0, step)]).said
    assert memory.startswith("Adapters keep 80 to 98% of full fine-tuning's activations: the back")
    assert "backward 23 to 115%: gradients of frozen weights are not computed" in time


def test_the_part_that_nothing_saves_is_named_where_it_is_the_largest() -> None:
    rows = [row | {"imports_anon_mib": 700.0, "peak_anon_mib": 1100.0, "peak_rss_mib": 1700.0}
            for row in rows_of()]  # fmt: skip
    said = section_of(rows).said[0]
    assert said.endswith(
        "The largest part of full fine-tuning in fp32 is libraries (1,300 of 1,700 MiB), and "
        "adapters do not reduce it."
    )


def test_the_table_and_the_picture_have_the_same_parts() -> None:
    section = section_of(rows_of())
    [table], [drawing] = section.tables, section.drawings
    assert [head.text for head in table.heads] == [
        "setting", "peak RSS, MiB", "libraries", "weights", "optimizer", "gradients",
        "activations", "rest", "ms for 1,000 tokens", "forward", "backward", "optimizer",
    ]  # fmt: skip
    assert list(table.rows[0]) == [
        "full, fp32", "1,200", "250", "86", "172", "86", "400", "206", "200", "60", "130", "10",
    ]  # fmt: skip
    assert "full fp32 1,200 (libraries 250, weights 86.0, optimizer 172, " in drawing.alt
    assert "lora r8 all-lin-only fp32" in drawing.svg


def test_parts_beyond_the_peak_are_said() -> None:
    section = section_of([rows_of()[0] | {"activations_mib": 700.0}])
    assert section.said == [
        "Parts exceed the peak (the dark mark), which does not hold all of them: full fine-tuning "
        "in fp32 by 94.0 MiB."
    ]


OLDER = dict.fromkeys(("forward_ms", "backward_ms", "optimizer_ms"))


def test_older_rows_lack_the_parts_of_a_step_and_a_command_supplies_them() -> None:
    full, *others = rows_of()
    section = section_of([full | OLDER, *others])
    assert section.said[-1].startswith(
        "The parts of a step are not recorded for full fine-tuning in fp32. This measures them: "
        "python -m bench.grid --grid full --model minilm"
    )
    assert section.said[-1].endswith(" --rerun ok")
    section = section_of([row | OLDER for row in rows_of()])
    assert "The parts of a step are not recorded for any setting." in section.said[-1]
    assert section.heading.endswith("activations 33%")
    assert "ms for" not in section.drawings[0].alt


def test_without_any_parts_there_is_no_section() -> None:
    [group] = groups(synthetic_rows(68))
    assert why_section(group) == []


def test_on_a_gpu_the_parts_are_of_allocated_memory() -> None:
    rows = [
        row | {"device": "cuda:0", "peak_cuda_allocated_mib": float(row["peak_rss_mib"] or 0) - 300}
        for row in rows_of()
    ]
    section = section_of(rows)
    assert "libraries" not in section.drawings[0].svg
    assert section.tables[0].heads[1].text == "peak CUDA memory allocated, MiB"
    assert "300 MiB less" in section.said[2]


@pytest.fixture(scope="module")
def reference() -> Group:
    return reference_group()


def test_the_reference_run_has_a_bar_for_each_kind_in_both_panels(reference: Group) -> None:
    [section] = why_section(reference)
    kinds = {(s.mode, s.layers) for s in reference.settings} | {("full", "in AMP")}
    assert len(section.tables[0].rows) == len(kinds)
    assert "–" not in {field for row in section.tables[0].rows for field in row}
    assert "not measured" not in section.drawings[0].alt
    assert not [line for line in section.said if "python" in line]


def test_the_sentences_on_the_reference_run_agree_with_its_table(reference: Group) -> None:
    [section] = why_section(reference)
    peaks = {row[0]: float(row[1].replace(",", "")) for row in section.tables[0].rows}
    line = next(line for line in section.said if "rank 8 on attn-only takes" in line)
    match = re.search(r"takes ([\d,]+) MiB (less|more)", line)
    assert match
    lora = next(peak for name, peak in peaks.items() if name.startswith("lora rank 8 on attn-only"))
    change = lora - peaks["full, bf16"]
    assert float(match[1]) == pytest.approx(abs(change), abs=1.01)
    assert (match[2] == "less") == (change < 0)
