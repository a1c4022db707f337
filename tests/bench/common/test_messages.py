"""One line for a message, whatever a library printed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.common.errors import cause_of
from bench.common.messages import CALLED, CONSOLE, LONGEST, as_called, echo, last_error, one_line
from tests.hostile import examples

TRACEBACK = """\
Traceback (most recent call last):
  File "a.py", line 1, in <module>
    f()
    ^^^
"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("two\n  lines", "two lines"),
        ("\x1b[31mred\x1b[0m\a", "red"),
        ("[Errno 2] No such file: '/home/me/my data/x.tsv'", "[Errno 2] No such file: 'x.tsv'"),
        ("can't open /home/me/x.tsv: no", "can't open x.tsv: no"),
        ("see https://host.example/a/b for more", "see https:/b for more"),
        ("1/2 and/or 3/4 of a / b", "1/2 and/or 3/4 of a / b"),
        ("txt\u202e.exe", r"txt\u202e.exe"),
        ("x" * 300, "x" * 300),
        ("x" * 301, f"{'x' * 299}…"),
    ],
)
def test_one_line(text, line):
    assert one_line(text) == line


def test_the_cause_of_an_error_without_a_text_is_its_type():
    assert (cause_of(ValueError("a\nb")), cause_of(ValueError())) == ("a b", "ValueError")


@examples(60)
@given(st.text())
def test_any_text_becomes_a_short_line(text):
    line = one_line(text)
    assert len(line) <= LONGEST
    assert len(line.splitlines()) <= 1
    assert one_line(line) == line or len(line) == LONGEST


@pytest.mark.parametrize(
    ("stderr", "line"),
    [
        ("", ""),
        ("a warning\nthe reason\n\n", "the reason"),
        (f"{TRACEBACK}ValueError: no\n", "ValueError: no"),
        (f"{TRACEBACK}RuntimeError: no:\nhint: try\n  this\n", "RuntimeError: no:"),
        (f"{TRACEBACK}KeyError: 1\n\nDuring handling\n\n{TRACEBACK}OSError: 2\n", "OSError: 2"),
        (f"{TRACEBACK}KeyError: 1\nlater chatter\n", "KeyError: 1"),
        ("Traceback (most recent call last):\n  cut off", "cut off"),
    ],
)
def test_last_error(stderr, line):
    assert last_error(stderr) == line


@pytest.mark.parametrize("err", [False, True])
def test_nothing_that_is_printed_moves_the_cursor_or_reverses_text(capsys, err):
    echo("a\x1b[2J\r\u202e\x9b\ud800é\tb\nc", err=err)
    text = capsys.readouterr()[err]
    assert text == r"a\x1b[2J\r\u202e\x9b\ud800é" + "\tb\nc\n"


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
