"""docs/tutorial.md shows what its commands print."""

import subprocess
from itertools import zip_longest

import pytest

from tests import tutorial
from tests.tutorial import BLOCK, PAGE, digest, outputs

BEST = "python -m bench.grid --grid quick --data reviews.csv --select 'mode=full' --no-race"


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


@pytest.mark.parametrize("outcome", ["decided", "undecided"])
def test_the_commands_that_follow_are_those_of_the_outcome(outcome, monkeypatch, tmp_path):
    """Of a race that is decided or not, by commands that only print."""
    printed, ran = {BEST: "[1/3] full-bf16-s0  ok  57.8 s\n"}, []
    if outcome == "undecided":
        printed["python -m bench.recommend"] = f"Undecided: 3 of 4.\nTo train:\n  {BEST}\n"

    def run(argv, **_):
        ran.append(argv[-1])
        text = printed.get(argv[-1], "Use lora.\n")
        return subprocess.CompletedProcess(argv, int(text.startswith("Undecided")), text)

    monkeypatch.setattr(tutorial.subprocess, "run", run)
    page = outputs(["same", "times"], tmp_path)
    ways = {
        "decided": ["python -m bench.export recommended --to my-model"],
        "undecided": [BEST, "python -m bench.export full-bf16-s0 --to my-model"],
    }
    own = ways.pop(outcome)
    [(other, others)] = ways.items()
    first = ran.index("python -m bench.recommend") + 1
    assert ran[first:][: len(own)] == own
    assert not set(others) & set(ran)
    kept = [one[0] for one in BLOCK.finditer(PAGE.read_text("utf-8")) if one["kind"] == other]
    assert kept
    assert all(one in page for one in kept)
    blocks = [one for one in BLOCK.finditer(page) if one["kind"]]
    assert [one["shown"] for one in blocks if one["digest"] != digest(one)] == []
    assert [one["shown"] for one in blocks if one["kind"] == outcome] == own
    failed = subprocess.CompletedProcess([], 2, "")
    monkeypatch.setattr(tutorial.subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(RuntimeError, match="ended with 2"):
        outputs(["same"], tmp_path)
