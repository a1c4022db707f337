"""Whether a cluster can run cells, before anything is queued, and which nodes deviate."""

import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from bench.common.errors import InputError, StoppedError
from bench.executors.slurm import node_check
from bench.executors.slurm import probe as module
from bench.executors.slurm.executor import find_cluster
from bench.executors.slurm.following import Submitter
from bench.executors.slurm.node_check import Node, check_nodes, compare, lines
from bench.executors.slurm.options import Request, parse_request
from bench.executors.slurm.probe import Prober, known_kinds
from bench.executors.slurm.submission import TARGET, Submission
from bench.launch.signals import Signals
from bench.machine.conditions import find_conditions
from bench.results.store import Store
from tests.bench.executors.slurm.conftest import FIRST, begin, row_of, runs


class Probing:
    """Its nodes run a probe's script at once."""

    def __init__(self, folder, slurm):
        self.folder, self.notes, self.put = folder, [], slurm
        slurm(
            sbatch=f'[ "$1" = --test-only ] && exec cat > {folder}/tested\n'
            f'for script; do :; done; cat "$script" > {folder}/script\n'
            f'sh "$script" > {folder}/out 2>&1; echo $? > {folder}/code; echo 11',
            scontrol=f'echo "JobId=11 JobState=COMPLETED ExitCode=$(cat {folder}/code):0"',
        )

    def prober(self, text="", *paths, device="cpu"):
        return Prober(
            self.folder / "runs.csv", parse_request(text), device, paths, self.notes.append, 0.01
        )

    def ask(self, text="", *paths, **options):
        return self.prober(text, *paths, **options).ask(Signals())

    def left_over(self):
        return list((self.folder / "runs").rglob("*"))

    def folders(self, text=""):
        """The folders of the kinds of nodes that are known and of a node's answer."""
        one = self.prober(text)
        one._folder.mkdir(parents=True, exist_ok=True)
        return one.kinds_folder, one._folder


@pytest.fixture
def cluster(tmp_path, slurm):
    return Probing(tmp_path, slurm)


def test_a_node_answers_with_its_conditions_once(cluster):
    assert cluster.prober().known() is None
    cluster.prober("time=20").check()
    assert cluster.left_over() == []
    target = cluster.ask("time=2:00:00")
    assert target.conditions == find_conditions("cpu").conditions
    assert "#SBATCH --time=0:10:00\n" in (cluster.folder / "script").read_text()
    assert len(cluster.notes) == 1
    assert cluster.ask() == target
    assert cluster.prober().known() == target
    assert len(cluster.notes) == 1
    assert cluster.prober("mem=1G").known() is None
    folder, own = cluster.prober().kinds_folder, target.conditions
    assert known_kinds(folder, target) == {own.conditions_id: target}
    kinds = [replace(own, machine="another"), replace(own, torch_version="1.0")]
    another, older = (replace(target, conditions=kind) for kind in kinds)
    for kind in (another, older):
        (folder / f"{kind.conditions.conditions_id}.json").write_bytes(TARGET.dump_json(kind))
    (folder / f"{'0' * 12}.json").write_text('{"conditions": {}}')  # by another version
    assert [*known_kinds(folder, target).values()] == [target, another]


PARTITIONS = {"sinfo": "echo 'cpu*|infinite'; echo 'gpu|30:00'"}


@pytest.mark.parametrize(("lines", "asked", "message"), [
    (PARTITIONS, "partition=cpu,nope",
     "^--slurm: there is no partition nope; choose cpu, gpu$"),
    (PARTITIONS, "partition=gpu time=2:00:00", "^--slurm: time=2:00:00 is more than 30:00, the "
     "limit of partition gpu; give less$"),
    ({"scontrol": "echo n1 n2"}, "nodelist=n[1-2]", r"^--slurm: nodelist names 2 nodes, .*="),
    ({"sinfo": "echo 'cpu|infinite'"}, "", "no default partition; choose cpu"),
    (
        {"sbatch": "cat >/dev/null; echo 'sbatch: error: invalid account' >&2; "
         "echo 'allocation failure: Invalid account' >&2; exit 1"},
        "account=me",
        "^--slurm: Slurm refuses such a job: sbatch: invalid account; allocation failure: "
        "Invalid account$",
    ),
    ({"sinfo": "exit 1"}, "", r"not answer here \(sinfo: exit code 1\);"),
])  # fmt: skip
def test_what_slurm_would_refuse(cluster, lines, asked, message):
    cluster.put(**lines)
    with pytest.raises(InputError, match=message):
        cluster.prober(asked).check()
    assert cluster.left_over() == []


@pytest.mark.parametrize(("printed", "code", "message"), [
    # its output goes to the folder too, so that Slurm can't start it
    ("", "0:53", r"it does not see FOLDER\S+ \(job 11 ended FAILED\); name a file in a folder "
     "that nodes share"),
    ("ModuleNotFoundError: No module named click", "1:0", "ModuleNotFoundError: No module"),
])  # fmt: skip
def test_a_job_that_can_not_begin(cluster, printed, code, message):
    cluster.put(
        sbatch='[ "$1" = --test-only ] && exit; for s; do :; done\n'
        f'echo "{printed}" > "${{s%script.sh}}output.txt"; echo 11',
        scontrol=f"echo 'JobId=11 JobState=FAILED ExitCode={code}'",
    )
    message = message.replace("FOLDER", str(cluster.folder))
    with pytest.raises(InputError, match=f"^--slurm: a node can't run cells: {message}"):
        cluster.ask()
    assert cluster.left_over() == []


def test_a_working_folder_that_nodes_do_not_share(cluster, monkeypatch):
    place = cluster.folder / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    cluster.put(
        sbatch=f'[ "$1" = --test-only ] && exit; /bin/mv {place} {place}2; for s; do :; done\n'
        f"cd /; sh $s; echo $? > {cluster.folder}/code; /bin/mv {place}2 {place}; echo 11"
    )
    with pytest.raises(InputError, match=f"does not see {place}; start the command in a folder"):
        cluster.ask()


def test_a_node_that_lacks_something(cluster, monkeypatch):
    data = cluster.folder / "data"
    with pytest.raises(InputError, match=f"can't run cells: it does not see {data}$"):
        cluster.ask("", data)
    with pytest.raises(InputError, match=r"can't run cells: .*; .*--device cpu runs"):
        cluster.ask(device="cuda")
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", str(cluster.folder / "venv" / "python"))
        with pytest.raises(InputError, match="venv/python; install this project in an environment"):
            cluster.ask()
    monkeypatch.setattr(module, "code_version", lambda: "9.9")
    with pytest.raises(InputError, match=r"its code is .*, and here it is 9\.9$"):
        cluster.ask()
    assert cluster.left_over() == []
    store = Store(Path("/proc/self/runs.csv"))
    with pytest.raises(InputError, match="can't be written"):
        find_cluster(store, Request(), "cpu", [], dry_run=False)


def test_the_user_does_not_wait_for_a_full_queue(cluster):
    log = cluster.folder / "cancelled"
    cluster.put(
        sbatch="echo 11",
        squeue='for w; do case $w in --name=*) echo "${w#*=}|11|N/A|PENDING|None";; esac; done',
        scancel=f'echo "$@" > {log}',
    )
    signals = Signals()
    signals.stops = 1
    with pytest.raises(StoppedError):
        cluster.prober().ask(signals)
    assert log.read_text() == "11\n"


def test_kinds_of_nodes_are_those_of_a_request_and_a_build_of_torch(cluster, monkeypatch):
    assert cluster.folders("time=5 exclude=n1") == cluster.folders("time=9")
    before = cluster.folders()
    assert cluster.folders("mem=1G")[0] != before[0]
    with monkeypatch.context() as patch:
        patch.setattr(module, "torch_build", lambda: ("99.0", None))
        after = cluster.folders()
    assert (after[0], after[1] != before[1]) == (before[0], True), "a node is asked again"
    monkeypatch.setenv("SBATCH_PARTITION", "long")
    assert cluster.folders()[0] != before[0]
    cluster.put(sinfo="echo 'main*|30:00'; echo 'long|infinite'")
    cluster.prober("time=2:00:00").check()
    cluster.prober("partition=main time=20").check()
    assert "#SBATCH --partition=main\n" in (cluster.folder / "tested").read_text()


def test_what_a_node_answered_is_used_in_a_full_queue_and_no_problem_of_before(cluster, target):
    answer, given = cluster.folders()[1] / "answer.json", cluster.folder / "given"
    cluster.put(sbatch="echo 'sbatch: error: AssocMaxSubmitJobLimit' >&2; exit 1")
    with pytest.raises(InputError, match="refuses such a job: sbatch: AssocMaxSubmitJobLimit"):
        cluster.prober().check()
    answer.write_bytes(TARGET.dump_json(target))
    cluster.prober().check()
    answer.write_text('{"problem": "it does not see /x"}')  # by a command that was killed
    given.write_bytes(TARGET.dump_json(target))
    cluster.put(sbatch=f"[ -e {answer} ] || cat {given} > {answer}; echo 3")
    assert cluster.ask() == target


def node(name, ms, half=1.0, kind="a"):
    return Node(name, kind, ms, ms - half, ms + half)


def test_a_node_deviates_by_its_whole_interval_and_from_its_own_kind():
    usual = [node(f"n{number}", 100 + number / 10) for number in range(4)]
    unsteady, near = node("unsteady", 120, half=30), node("near", 104)
    other, gone = node("other", 200, kind="b"), Node("gone", "a", problem="crashed")
    for others in ([], [unsteady], [near], [other], [gone]):
        assert {one.deviation for one in compare([*usual, *others])} == {None}


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

    monkeypatch.setattr(node_check, "sleep", work)
    nodes = checked(tmp_path, "exclude=n4")
    problems = {"n1": "", "n2": "", "n5": "it never began: no longer in the queue"}
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
    monkeypatch.setattr(node_check, "sleep", lambda _seconds: None)
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
