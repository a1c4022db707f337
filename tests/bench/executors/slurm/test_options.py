"""What a job asks Slurm for, and its script."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.executors.slurm import options
from bench.executors.slurm.options import Request, fixed_options, parse_request, script


def test_options_with_and_without_a_value():
    request = parse_request("partition=gpu gres=gpu:1 exclusive time=2:00:00", 64)
    assert request.options == {
        "partition": "gpu",
        "gres": "gpu:1",
        "exclusive": None,
        "time": "2:00:00",
    }
    assert (request.partition, request.limit_s, request.max_running) == ("gpu", 7200, 64)
    assert parse_request("comment='a b'").options == {"comment": "a b"}
    assert parse_request("") == Request()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("array=0-3", "array can't be given: each cell is an array task; leave it out"),
        ("output=here", "output can't be given"),
        (
            "outpu=here",
            "outpu can't be given: output files are kept in runs/slurm; leave it out",
        ),
        ("wra=id", "wra can't be given"),
        ("arra=1", "arra can't be given"),
        ("no-requeue", "no-requeue can't be given: jobs are always requeued"),
        ("nodes=2", "nodes can't be given: a cell runs on one node; leave it out"),
        ("hold", "hold can't be given: nobody would release the jobs"),
        ("help", "help can't be given: it submits nothing"),
        ("--partition=gpu", "give the long options of sbatch without their dashes"),
        ("-p gpu", "'-p' is not an option"),
        ("Partition=gpu", "'Partition=gpu' is not an option"),
        ("mem=1G mem=2G", "mem is given twice"),
        ("mem=", "'mem=' has no value"),
        ("mem='1\n2'", "has no value that can be used"),
        ("time=soon", "time=soon is not a time limit"),
        ("time", "time=None is not a time limit"),
        ("comment='a", "can't be read"),
    ],
)
def test_options_that_are_refused(text, message):
    with pytest.raises(InputError, match=message) as error:
        parse_request(text)
    assert str(error.value).startswith("--slurm: ")
    assert "\n" not in str(error.value)


def test_a_path_of_several_lines_is_no_line_of_a_script(tmp_path):
    with pytest.raises(InputError, match="can't name a path of several lines"):
        script(Request(), "bench-x", tmp_path / "a\n#SBATCH --wrap=id" / "%a.txt", "node", [])


def test_a_script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    request = parse_request("partition=gpu exclusive comment='a \"b\"'")
    text = script(request, "bench-x", tmp_path / "100%" / "%a.txt", "node", ["a b"])
    assert text.splitlines() == [
        "#!/bin/sh",
        "#SBATCH --job-name=bench-x",
        f"#SBATCH --output={tmp_path}/100%%/%a.txt",
        "#SBATCH --open-mode=append",
        "#SBATCH --export=ALL",
        "#SBATCH --requeue",
        "#SBATCH --partition=gpu",
        "#SBATCH --exclusive",
        '#SBATCH --comment="a \\"b\\""',
        f"cd {tmp_path} || exit 74",
        f"[ -x {sys.executable} ] || exit 73",
        "export PYTHONSAFEPATH=1",
        f"export PYTHONPATH={Path(options.__file__).parents[3]}${{PYTHONPATH:+:$PYTHONPATH}}",
        f"exec {sys.executable} -m bench.executors.slurm.node 'a b'",
    ]
    assert {"job-name", "exclusive", "comment", "array", "wait"} <= set(fixed_options(text))
    assert parse_request("").with_limit(61).options["time"] == "0:02:00"


def test_a_script_runs_this_code_wherever_it_starts(tmp_path, monkeypatch):
    text = script(Request(), "bench-x", tmp_path / "out.txt", "node", [str(tmp_path)])
    environment = {name: v for name, v in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        ["/bin/sh"], input=text, capture_output=True, text=True, cwd="/",
        env={**environment, "SLURM_ARRAY_TASK_ID": "0"}, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert f"{tmp_path}/request.json: can't be read" in done.stderr


def test_a_script_without_its_folder_or_python_says_so(tmp_path, monkeypatch):
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    text = script(Request(), "bench-x", tmp_path / "out.txt", "node", [])
    place.rmdir()
    assert subprocess.run(["/bin/sh"], input=text, text=True, check=False).returncode == 74
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    text = script(Request(), "bench-x", tmp_path / "out.txt", "node", [])
    assert subprocess.run(["/bin/sh"], input=text, text=True, check=False).returncode == 73


def test_the_flags_of_a_request_give_it_again():
    request = parse_request("partition=gpu exclusive comment='a b'", 4)
    words = shlex.split(request.flags)
    assert words[:2] == ["--executor", "slurm"]
    assert words[-2:] == ["--max-running", "4"]
    assert parse_request(words[3], 4) == request
