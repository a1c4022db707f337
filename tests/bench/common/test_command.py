"""How commands fail and take `--runs`, and one line for a message, whatever a library printed."""

import io
import sys
from pathlib import Path
from unittest import mock

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.text import Text

from bench.common.child import ask_by
from bench.common.command import run_command, with_runs
from bench.common.errors import DiskFullError, InputError, cause_of
from bench.common.messages import CALLED, CONSOLE, LONGEST, as_called, echo, last_error, one_line
from bench.common.progress import Console
from tests.hostile import examples

PROGRAM = "import sys; sys.exit(print('error: no such model\\nleaked', file=sys.stderr) or 2)"


def test_a_full_disk_and_bad_input_are_the_line_that_says_so(capsys, monkeypatch):
    """Whatever libraries write after it."""
    monkeypatch.setattr(sys, "argv", ["fails"])
    failing = mock.Mock(side_effect=DiskFullError("reports: no space left for the report"))
    with pytest.raises(SystemExit) as caught:
        run_command(click.command()(lambda: failing()))
    assert caught.value.code == 1
    assert capsys.readouterr().err == "error: reports: no space left for the report\n"
    with pytest.raises(InputError, match=r"^no such model$"):
        list(ask_by([sys.executable, "-c", PROGRAM], {}))


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


TRACEBACK = """\
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    f()
    ^^^
"""


@pytest.mark.parametrize(("text", "line"), [
    ("two\n  lines", "two lines"), ("\x1b[31mred\x1b[0m\a", "red"),
    ("[Errno 2] No such file: '/home/me/my data/x.tsv'", "[Errno 2] No such file: 'x.tsv'"),
    ("can't open /home/me/x.tsv: no", "can't open x.tsv: no"),
    ("see https://host.example/a/b for more", "see https:/b for more"),
    ("1/2 and/or 3/4 of a / b", "1/2 and/or 3/4 of a / b"),
    ("txt\u202e.exe", r"txt\u202e.exe"),
    ("x" * 300, "x" * 300), ("x" * 301, f"{'x' * 299}…"),
])  # fmt: skip
def test_one_line(text, line):
    assert one_line(text) == line


@examples(60)
@given(st.text())
def test_any_text_becomes_a_short_line(text):
    line = one_line(text)
    assert len(line) <= LONGEST
    assert len(line.splitlines()) <= 1
    assert one_line(line) == line or len(line) == LONGEST
    assert cause_of(ValueError(text)) == (line or "ValueError")


@pytest.mark.parametrize(("stderr", "line"), [
    ("", ""), ("a warning\nthe reason\n\n", "the reason"),
    (f"{TRACEBACK}ValueError: no\n", "ValueError: no"),
    (f"{TRACEBACK}RuntimeError: no:\nhint: try\n  this\n", "RuntimeError: no:"),
    (f"{TRACEBACK}KeyError: 1\n\nDuring handling\n\n{TRACEBACK}OSError: 2\n", "OSError: 2"),
    (f"{TRACEBACK}KeyError: 1\nlater chatter\n", "KeyError: 1"),
    ("Traceback (most recent call last):\n  cut off", "cut off"),
])  # fmt: skip
def test_last_error(stderr, line):
    assert last_error(stderr) == line


@pytest.mark.parametrize("err", [False, True])
def test_nothing_that_is_printed_moves_the_cursor_or_reverses_text(capsys, err):
    echo("a\x1b[2J\r\u202e\x9b\ud800é\tb\nc", err=err)
    assert capsys.readouterr()[err] == r"a\x1b[2J\r\u202e\x9b\ud800é" + "\tb\nc\n"


def test_commands_have_the_form_in_which_the_user_called_one(monkeypatch, capsys):
    text = "see python -m bench.recommend. Or python -m bench.grid 'a; b'; python -m bench.worker x"
    assert as_called(text) == text
    monkeypatch.setenv(CALLED, CONSOLE)
    expected = "see minbert-bench recommend. Or minbert-bench run 'a; b'; python -m bench.worker x"
    assert as_called(text) == expected
    assert as_called("python -m minbert.assets fetch") == "minbert-bench assets fetch"
    echo("python -m bench.doctor")
    assert capsys.readouterr().out == "minbert-bench doctor\n"
    node = "python -m bench.executors.slurm.node x"
    assert as_called(node) == node


@pytest.mark.parametrize("shown", [str, Text])
def test_a_terminal_shows_escapes_and_markup_and_obeys_neither(shown):
    """In its own strings and in texts that others made, such as a bar's description."""
    stream = io.StringIO()
    Console(file=stream, force_terminal=True, width=200).print(
        shown("\x1b]52;c;QQ==\x07 \u202e [b]x")
    )
    assert "\x1b]" not in stream.getvalue()
    assert "\u202e" not in stream.getvalue()
    assert "\\x1b]52;c;QQ==" in stream.getvalue()
    assert "\\u202e [b]x" in stream.getvalue()
