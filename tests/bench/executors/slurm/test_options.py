"""What a job asks Slurm for, and its script."""

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from bench.common.errors import InputError
from bench.executors.slurm import options
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


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("outpu=here", "outpu can't be given: output files are kept in runs/slurm; leave it out"),
        ("--partition=gpu", "give the long options of sbatch without their dashes"),
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
    with pytest.raises(InputError, match="can't name a path of several lines"):
        script(Request(), "bench-x", tmp_path / "a\n#SBATCH --wrap=id" / "%a.txt", "node", [])


def test_a_script_runs_this_code_wherever_it_starts(tmp_path):
    text = script(Request(), "bench-x", tmp_path / "out.txt", "node", [str(tmp_path)])
    variables = {"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": "0"}
    done = ended(text, cwd="/", env=variables)
    assert (done.returncode, f"{tmp_path}/request.json: can't" in done.stderr) == (1, True)


def ended(text, **options):
    """A job script after its end."""
    return subprocess.run(
        ["/bin/sh"], input=text, capture_output=True, text=True, check=False, **options
    )


def test_a_script_without_its_folder_or_python_says_so(tmp_path, monkeypatch):
    place = tmp_path / "gone"
    place.mkdir()
    monkeypatch.chdir(place)
    text = script(Request(), "bench-x", tmp_path / "out.txt", "node", [])
    place.rmdir()
    assert ended(text).returncode == 74
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    text = script(Request(), "bench-x", tmp_path / "out.txt", "node", [])
    assert ended(text).returncode == 73
