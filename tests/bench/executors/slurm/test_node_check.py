"""Which nodes deviate, and what is said of them."""

from unittest import mock

import pytest

from bench.common.errors import InputError
from bench.executors.slurm import node_check as module
from bench.executors.slurm.node_check import Node, check_nodes, compare, lines
from bench.executors.slurm.options import parse_request
from bench.executors.slurm.submission import Submission
from bench.executors.slurm.submitter import Submitter
from bench.launch.signals import Signals
from tests.bench.executors.slurm.conftest import FIRST, begin, row_of, runs


def node(name, ms, half=1.0, kind="a"):
    return Node(name, kind, ms, ms - half, ms + half)


def deviations(*nodes):
    return [one.name for one in compare(nodes) if one.deviation is not None]


def test_a_node_deviates_by_its_whole_interval_and_from_its_own_kind():
    usual = [node(f"n{number}", 100 + number / 10) for number in range(4)]
    assert deviations(*usual) == []
    assert deviations(*usual, node("slow", 120)) == ["slow"]
    assert deviations(*usual, node("fast", 80)) == ["fast"]
    assert deviations(*usual, node("unsteady", 120, half=30)) == []
    assert deviations(*usual, node("near", 104)) == []
    assert deviations(*usual, node("other", 200, kind="b")) == []
    assert deviations(*usual, Node("gone", "a", problem="crashed")) == []


def test_lines_name_what_to_leave_out():
    usual = [node(f"n{number}", 100) for number in range(2)]
    every = [*usual, node("slow", 125), node("fast", 80), Node("gone", problem="it never began: x")]
    assert lines(compare(every)) == [
        "gone            it never began: x",
        "fast  a         80 ms for 1,000 tokens (79 to 81), 20% faster than others of its kind",
        "n0    a         100 ms for 1,000 tokens (99 to 101)",
        "n1    a         100 ms for 1,000 tokens (99 to 101)",
        "slow  a         125 ms for 1,000 tokens (124 to 126), 25% slower than others of its kind",
        "to leave nodes out: --slurm exclude=slow,gone",
    ]
    assert len(lines(compare(usual))) == 2


def checked(folder, request="", note=lambda _text: None):
    """What a check of the nodes finds, which looks once."""
    submitter = Submitter(folder / "runs.csv", parse_request(request), "cpu", folder)
    return check_nodes(submitter, runs(1)[0], note, Signals(), 0.0)


def test_each_node_that_takes_jobs_has_a_job_of_its_own(slurm, tmp_path, target, monkeypatch):
    calls = tmp_path / "calls"
    slurm(
        sinfo="echo 'n1|idle'; echo 'n2|mixed'; echo 'n3|down*'; echo 'n4|idle'; echo 'n5|idle'",
        sbatch=f'for s; do :; done; cat "$s" >> {calls}; echo 7',
        scontrol='[ "$2" = hostnames ] && echo n4 || exit 1',
    )

    def work(_seconds):
        """The nodes run their cells, except the last."""
        for name in ("n1", "n2"):
            [place] = (tmp_path / "runs" / "slurm" / "nodes" / name / "slurm").iterdir()
            submission = Submission(place)
            begin(submission, target)
            row, folder = row_of(submission, target)
            submission.publish_row(FIRST, row | {"ms_per_1k_tokens": 5.0}, folder)

    monkeypatch.setattr(module, "sleep", work)
    nodes = checked(tmp_path, "exclude=n4")
    gone = "it never began: no longer in the queue"
    problems = {"n1": "", "n2": "", "n5": gone}
    assert {node.name: node.problem for node in nodes} == problems
    lists = [line for line in calls.read_text().splitlines() if "nodelist" in line]
    assert lists == [f"#SBATCH --nodelist={name}" for name in problems]
    assert not (tmp_path / "runs.csv").exists()
    assert (tmp_path / "runs" / "slurm" / "nodes.json").exists()


def test_a_node_that_does_not_fit_is_left_out(slurm, tmp_path, monkeypatch):
    slurm(
        sinfo="echo 'n1|idle'; echo 'n2|idle'",
        sbatch='for s; do :; done; case $(cat "$s") in *nodelist=n1*) '
        "echo 'sbatch: error: Requested node configuration is not available' >&2; exit 1;; esac; "
        "echo 7",
    )
    monkeypatch.setattr(module, "sleep", lambda _seconds: None)
    notes, why = [], "n1 is not checked: sbatch: Requested node configuration is not available"
    [node] = checked(tmp_path, "exclusive", notes.append)
    assert (node.name, notes[0]) == ("n2", why)
    slurm(sinfo="echo 'n1|idle'")
    with pytest.raises(InputError, match=f"^--check-nodes: {why}"):
        checked(tmp_path, "exclusive")
    slurm(sinfo="echo 'n1|down*'; echo 'n2|drained'")
    with pytest.raises(InputError, match="no node takes jobs"):
        checked(tmp_path)


def test_jobs_are_cancelled_if_a_later_one_can_not_be_made(slurm, tmp_path, submit, monkeypatch):
    calls, notes, submission = tmp_path / "calls", [], submit([runs(1)])
    slurm(sinfo="echo 'n1|idle'; echo 'n2|idle'", scancel=f'echo "$*" >> {calls}')
    ends = mock.Mock(side_effect=[submission, OSError("No space left")])
    monkeypatch.setattr(Submitter, "submit", ends)
    with pytest.raises(OSError, match="No space left"):
        checked(tmp_path, note=notes.append)
    assert calls.read_text() == "7\n"
    assert [note for note in notes if "without exclusive" in note]
