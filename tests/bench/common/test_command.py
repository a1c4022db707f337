"""What commands share: how they fail, and how they take `--runs`."""

import sys
from pathlib import Path

import click
import pytest

from bench.common.command import run_command, with_runs
from bench.common.errors import DiskFullError, InputError


def test_a_full_disk_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["fails"])

    @click.command()
    def fails():
        raise DiskFullError("reports: no space left for the report")

    with pytest.raises(SystemExit) as caught:
        run_command(fails)
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: reports: no space left for the report\n"


@click.command()
@with_runs("Results to add up.")
@click.option("--twice", is_flag=True)
def adds(runs, twice):
    return sum(int(path.read_text()) for path in runs) * (2 if twice else 1)


def test_files_of_results_are_named_once_or_each(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in (("one.csv", "1"), ("other.csv", "2"), ("runs.csv", "4")):
        Path(name).write_text(text)
    lines = {"--runs one.csv --runs other.csv": 3, "--runs one.csv --twice other.csv": 6,
             "--twice": 8}  # fmt: skip
    for line, total in lines.items():
        assert adds.main(line.split(), standalone_mode=False) == total
    with pytest.raises(InputError, match="no such file of results; name one with --runs"):
        adds.main(["--runs", "no.csv"], standalone_mode=False)
    adds.main(["--help"], standalone_mode=False)
    text = " ".join(capsys.readouterr().out.split())
    assert "--runs FILE... Results to add up. [default: runs.csv]" in text
