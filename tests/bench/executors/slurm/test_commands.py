"""Slurm's commands: what they are given, what is read from their output, and their errors."""

import os

import pytest

from bench.common.errors import InputError
from bench.executors.slurm import commands
from bench.executors.slurm.commands import Ended, Queued, SlurmError
from bench.executors.slurm.options import fixed_options


@pytest.mark.parametrize(
    ("text", "indexes"),
    [
        ("3", {3}),
        ("4-6,10%64", {4, 5, 6, 10}),
        ("[0-8:4,20]", {0, 4, 8, 20}),
        ("[2-3%1]", {2, 3}),
        ("N/A", set()),
        ("", set()),
    ],
)
def test_indexes(text, indexes):
    assert commands.parse_indexes(text) == indexes


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("5", 300),
        ("1:30", 90),
        ("2:00:00", 7200),
        ("1-12", 129600),
        ("1-12:30", 131400),
        ("1-00:00:05", 86405),
        ("infinite", None),
        ("UNLIMITED", None),
        ("", None),
        ("soon", None),
    ],
)
def test_durations(text, seconds):
    assert commands.seconds(text) == seconds


def test_a_limit_is_rounded_up_to_minutes():
    assert commands.duration(61) == "0:02:00"
    assert commands.duration(7200) == "2:00:00"
    assert commands.duration(90000) == "25:00:00"
    assert commands.seconds(commands.duration(90000)) == 90000


def test_the_queue_with_long_lists_of_indexes(slurm, monkeypatch):
    monkeypatch.setenv("SQUEUE_STATES", "RUNNING")
    slurm(
        squeue='[ "$SLURM_BITSTR_LEN$SQUEUE_STATES" = 0 ] || exit 1\n'
        "echo 'bench-a|12|0|RUNNING|None'; echo 'bench-a|12|3-5,9%2|PENDING|Resources'"
    )
    assert commands.queued(["bench-a"]) == [
        Queued(12, "bench-a", "RUNNING", frozenset({0}), "None"),
        Queued(12, "bench-a", "PENDING", frozenset({3, 4, 5, 9}), "Resources"),
    ]


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


def test_what_the_controller_knows_counts_more_than_accounting(slurm):
    slurm(
        scontrol="echo 'JobId=8 ArrayJobId=7 ArrayTaskId=0 JobName=a b JobState=TIMEOUT "
        "Reason=TimeLimit ExitCode=0:15 Comment=x=y BatchHost=n1'",
        sacct="echo '7_0|RUNNING|0:0|n1'; echo '7_1|CANCELLED by 0|0:15|None assigned'; "
        "echo '7_[2-3%1]|NODE_FAIL|1:0|n2'",
    )
    assert commands.ended(7) == {
        0: Ended("TIMEOUT", 0, "n1"),
        1: Ended("CANCELLED", 0, "None assigned"),
        2: Ended("NODE_FAIL", 1, "n2"),
        3: Ended("NODE_FAIL", 1, "n2"),
    }


def test_a_job_that_nobody_knows_any_more(slurm):
    slurm(scontrol="echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1")
    assert commands.ended(7) == {}


def test_a_job_without_an_array(slurm):
    slurm(scontrol="echo 'JobId=8 JobState=FAILED ExitCode=74:0'")
    assert commands.ended(8) == {-1: Ended("FAILED", 74)}


def test_options_of_a_script_count_more_than_the_environment(slurm, monkeypatch, tmp_path):
    given = ("PARTITION", "TIMELIMIT", "MEM_PER_NODE")
    removed = (*given, "NO_REQUEUE", "WAIT", "ARRAY_INX", "SIGNAL", "CLUSTERS")
    for name in ("ACCOUNT", *removed):
        monkeypatch.setenv(f"SBATCH_{name}", "7")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")  # of an outer job
    slurm(sbatch=f'env > {tmp_path}/env; echo "$@" > {tmp_path}/words; echo "12;cluster"')
    names = fixed_options("#SBATCH --partition=gpu\n#SBATCH --time=2\n#SBATCH --mem=8G\n")
    job = commands.submit(tmp_path / "script.sh", "--array=0-3", names=names)
    assert job == 12
    assert (tmp_path / "words").read_text() == f"--parsable --array=0-3 {tmp_path}/script.sh\n"
    variables = (tmp_path / "env").read_text()
    assert "SBATCH_ACCOUNT=7" in variables
    assert "SLURM_BITSTR_LEN" not in variables  # a job inherits it
    assert "SLURM_RESTART_COUNT" not in variables
    assert not any(f"SBATCH_{name}" in variables for name in removed)


def test_an_answer_that_is_no_number(slurm, tmp_path):
    slurm(sbatch="echo 'welcome to the cluster'")
    with pytest.raises(SlurmError, match="printed no job id"):
        commands.submit(tmp_path / "script.sh")


def test_partitions_and_the_default(slurm):
    slurm(sinfo="echo 'gpu|1-00:00:00'; echo 'cpu*|infinite'")
    assert commands.partitions() == {
        "gpu": ("1-00:00:00", 86400),
        "cpu": ("infinite", None),
        "": ("infinite", None),
    }


def test_the_largest_array(slurm):
    slurm(scontrol="echo 'MaxArraySize            = 1001'")
    assert commands.most_indexes() == 1001
    slurm(scontrol="echo 'MaxArraySize            = 0'")
    with pytest.raises(SlurmError, match="no job arrays"):
        commands.most_indexes()


def test_no_slurm(slurm, monkeypatch):
    commands.check_installed()
    monkeypatch.setenv("PATH", os.devnull)
    with pytest.raises(
        InputError, match="not found on PATH: sbatch, squeue, scancel, scontrol, sinfo;"
    ):
        commands.check_installed()


def test_hidden_partitions_are_included(slurm):
    name = '[ "$1" = --all ] || exit 1'
    slurm(squeue=f"{name}; echo 'bench-a|12|0|RUNNING|None'", sinfo=f"{name}; echo 'dark|infinite'")
    assert len(commands.queued(["bench-a"])) == 1
    assert commands.partitions().keys() == {"dark"}


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("CPUAlloc=0 CPUEfctv=60 CPUTot=64", 60), ("CPUAlloc=0 CPUTot=64", 64), ("", None)],
)
def test_cpus_that_are_kept_for_the_system_do_not_count(slurm, text, cpus):
    slurm(scontrol=f"echo 'NodeName=n1 {text}'")
    assert commands.cpus_of("n1") == cpus
