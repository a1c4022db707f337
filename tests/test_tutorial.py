"""docs/tutorial.md shows what its commands print."""

from itertools import zip_longest

from tests.tutorial import BLOCK, PAGE, digest, outputs


def test_no_output_was_written_by_hand():
    blocks = [one for one in BLOCK.finditer(PAGE.read_text("utf-8")) if one["kind"]]
    assert len(blocks) > 5
    assert [one["shown"] for one in blocks if one["digest"] != digest(one)] == []


def test_commands_without_times_print_what_is_on_the_page(tmp_path):
    lines = PAGE.read_text("utf-8").splitlines(), outputs(["same"], tmp_path).splitlines()
    changed = [
        f"line {n}: {new}" for n, (old, new) in enumerate(zip_longest(*lines), 1) if old != new
    ]
    assert changed == [], "python -m tests.tutorial writes the page again"
