"""What a job asks Slurm for, its script, and what is read from the output of Slurm's commands."""

import os
import shlex
import sys
from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.executors.slurm import commands, options
from bench.executors.slurm.commands import Ended, Queued, SlurmError
from bench.executors.slurm.options import Request, parse_request, script


def test_options_with_and_without_a_value():
    request = parse_request("partition=gpu gres=gpu:1 exclusive time=2:00:00", 64)
    values = {"partition": "gpu", "gres": "gpu:1", "exclusive": None, "time": "2:00:00"}
    assert request.options == values
    assert (request.partition, request.limit_s, request.max_running) == ("gpu", 7200, 64)
    assert parse_request("") == Request()
    request = parse_request("partition=gpu exclusive comment='a b'", 4)
    words = shlex.split(request.flags)
    assert words[:2] == ["--executor", "slurm"]
    assert words[-2:] == ["--max-running", "4"]
    assert parse_request(words[3], 4) == request


@pytest.mark.parametrize(("text", "message"), [
    ("outpu=here", "outpu can't be given: output files are kept in runs/slurm; leave it out"),
    ("--partition=gpu", "give the long options of sbatch without their dashes"),
    ("Partition=gpu", "'Partition=gpu' is not an option"),
    ("mem=1G mem=2G", "mem is given twice"),
    ("mem=", "'mem=' has no value"),
    ("mem='1\n2'", "has no value that can be used"),
    ("time=soon", "time=soon is not a time limit"),
    ("time", "time=None is not a time limit"),
    ("comment='a", "can't be read"),
])  # fmt: skip
def test_options_that_are_refused(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse_request(text)
    assert str(error.value).startswith("--slurm: ")
    assert "\n" not in str(error.value)


def test_a_script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = parse_request("partition=gpu exclusive comment='a \"b\"'")
    text = script(request, "bench-x", tmp_path / "100%" / "%a.txt", "node", ["a b"])
    assert text.splitlines() == [
        "#!/bin/sh", "#SBATCH --job-name=bench-x", f"#SBATCH --output={tmp_path}/100%%/%a.txt",
        "#SBATCH --open-mode=append", "#SBATCH --export=ALL", "#SBATCH --requeue",
        "#SBATCH --partition=gpu", "#SBATCH --exclusive", '#SBATCH --comment="a \\"b\\""',
        f"cd {tmp_path} || exit 74",
        f"[ -x {sys.executable} ] || exit 73",
        "export PYTHONSAFEPATH=1",
        f"export PYTHONPATH={Path(options.__file__).parents[3]}${{PYTHONPATH:+:$PYTHONPATH}}",
        f"exec {sys.executable} -m bench.executors.slurm.node 'a b'",
    ]  # fmt: skip
    with pytest.raises(InputError, match="can't name a path of several lines"):
        script(Request(), "bench-x", tmp_path / "a\n#SBATCH --wrap=id" / "%a.txt", "node", [])


def test_indexes_and_durations():
    for text, indexes in (
        ("4-6,10%64", {4, 5, 6, 10}), ("[0-8:4,20]", {0, 4, 8, 20}), ("N/A", set()), ("", set())
    ):  # fmt: skip
        assert commands.parse_indexes(text) == indexes
    for text, seconds in (
        ("5", 300), ("1:30", 90), ("2:00:00", 7200), ("1-12", 129600), ("1-12:30", 131400),
        ("1-00:00:05", 86405), ("UNLIMITED", None),
    ):  # fmt: skip
        assert commands.seconds(text) == seconds
    assert (commands.duration(61), commands.duration(90000)) == ("0:02:00", "25:00:00")


def test_the_queue_with_long_lists_of_indexes_and_hidden_partitions(slurm, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    slurm(
        squeue='[ "$SLURM_BITSTR_LEN$SQUEUE_STATES$1" = 0--all ] || exit 1\n'
        "echo 'bench-a|12|0|RUNNING|None'; echo 'bench-a|12|3-5,9%2|PENDING|Resources'",
        sinfo="[ $1 = --all ] && echo 'gpu|1-00:00:00'; echo 'cpu*|infinite'",
    )
    assert commands.queued(["bench-a"]) == [
        Queued(12, "bench-a", "RUNNING", frozenset({0}), "None"),
        Queued(12, "bench-a", "PENDING", frozenset({3, 4, 5, 9}), "Resources"),
    ]
    limits = {"gpu": ("1-00:00:00", 86400), **dict.fromkeys(["cpu", ""], ("infinite", None))}
    assert commands.partitions() == limits


def test_a_command_that_fails_hangs_or_is_gone(slurm, monkeypatch):
    slurm(squeue="echo 'squeue: error: Unable to contact slurm controller' >&2; exit 1")
    with pytest.raises(SlurmError, match=r"^squeue: Unable to contact slurm controller$"):
        commands.queued(["bench-a"])
    monkeypatch.setattr(commands, "PATIENCE_S", 0.1)
    slurm(squeue="while :; do :; done", scancel="exit 3")
    with pytest.raises(SlurmError, match="no answer"):
        commands.queued(["bench-a"])
    with pytest.raises(SlurmError, match=r"^scancel: exit code 3$"):
        commands.cancel("1")
    monkeypatch.setenv("PATH", os.devnull)
    absent = "not found on PATH: sbatch, squeue, scancel, scontrol, sinfo;"
    with pytest.raises(InputError, match=absent):
        commands.check_installed()


def test_what_the_controller_knows(slurm):
    """More than accounting; the largest array; CPUs without those kept for the system."""
    slurm(
        scontrol="echo 'JobId=8 ArrayJobId=7 ArrayTaskId=0 JobName=a b JobState=TIMEOUT "
        "Reason=TimeLimit ExitCode=0:15 Comment=x=y BatchHost=n1'",
        sacct="echo '7_0|RUNNING|0:0|n1'; echo '7_1|CANCELLED by 0|0:15|None assigned'; "
        "echo '7_[2-3%1]|NODE_FAIL|1:0|n2'",
    )
    assert commands.ended(7) == {
        0: Ended("TIMEOUT", 0, "n1"), 1: Ended("CANCELLED", 0, "None assigned"),
        2: Ended("NODE_FAIL", 1, "n2"), 3: Ended("NODE_FAIL", 1, "n2"),
    }  # fmt: skip
    slurm(scontrol="echo 'JobId=8 JobState=FAILED ExitCode=74:0'", sacct="exit 1")
    assert commands.ended(8) == {-1: Ended("FAILED", 74)}, "a job without an array"
    slurm(scontrol="echo 'MaxArraySize            = 1001'")
    assert commands.most_indexes() == 1001
    slurm(scontrol="echo 'MaxArraySize            = 0'")
    with pytest.raises(SlurmError, match="no job arrays"):
        commands.most_indexes()
    for text, cpus in (("CPUEfctv=60 CPUTot=64", 60), ("CPUTot=64", 64), ("", None)):
        slurm(scontrol=f"echo 'NodeName=n1 CPUAlloc=0 {text}'")
        assert commands.cpus_of("n1") == cpus


def test_options_of_a_script_count_more_than_the_environment(slurm, monkeypatch, tmp_path):
    given = ("PARTITION", "TIMELIMIT", "MEM_PER_NODE")
    removed = (*given, "NO_REQUEUE", "WAIT", "ARRAY_INX", "SIGNAL", "CLUSTERS")
    for name in ("ACCOUNT", *removed):
        monkeypatch.setenv(f"SBATCH_{name}", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")  # of an outer job
    slurm(sbatch=f'env > {tmp_path}/env; echo "$@" > {tmp_path}/words; echo "12;cluster"')
    script = tmp_path / "script.sh"
    script.write_text("#SBATCH --partition=gpu\n#SBATCH --time=2\n#SBATCH --mem=8G\n")
    assert commands.submit(script, "--array=0-3") == 12
    assert (tmp_path / "words").read_text() == f"--parsable --array=0-3 {script}\n"
    variables = (tmp_path / "env").read_text()
    assert "SBATCH_ACCOUNT=7" in variables
    assert "SLURM_BITSTR_LEN" not in variables  # a job inherits it
    assert "SLURM_RESTART_COUNT" not in variables
    assert not any(f"SBATCH_{name}" in variables for name in removed)
    slurm(sbatch="echo 'welcome to the cluster'")
    with pytest.raises(SlurmError, match="printed no job id"):
        commands.submit(script)
