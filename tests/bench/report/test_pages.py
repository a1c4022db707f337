"""What commands print as tables, and their pages of figures and tables."""

import os
import subprocess
import sys
from pathlib import Path

import markdown

from bench.report.pages import Facts, sections_of
from bench.report.pages import markdown as as_markdown
from bench.report.tables import Head, Table, print_tables

TEXT = "[red]a[/red] [/b] :smile:"


def test_a_text_on_a_terminal_is_no_markup(capsys):
    print_tables([Table([Head("h", "[i]h")], [[TEXT]], "[b]caption")], [f"line {TEXT}"])
    shown = capsys.readouterr().out
    assert shown.count(TEXT) == 2
    assert "[i]h" in shown
    assert "[b]caption" in shown
    print_tables([Table([Head("h", "h")], [[f"\x1b]0;\u202e{i}"] for i in range(50_000)])], [])
    shown = capsys.readouterr().out
    assert len(shown.splitlines()) < 600
    assert r"\x1b]0;\u202e499" in shown
    assert "and 49,500 more" in shown


def facts(rows, command="python"):
    table = Table([Head("h", "h")], [[f"row {row}"] for row in range(rows)], "All of them")
    return Facts(
        title="title", findings=[], sections=sections_of([], [table], []), how="How", notes=[],
        command=command,
    )  # fmt: skip


def test_markdown_lists_the_first_of_very_many_rows():
    text = as_markdown("updates", facts(501))
    assert "row 499" in text
    assert "row 500" not in text
    assert "500 of 501 are shown; the rest is in the HTML page." in text
    assert "are shown" not in as_markdown("updates", facts(500))


def test_a_command_of_several_lines_is_code():
    text = as_markdown("updates", facts(1, "python 'a\n\n# b' <b>c</b>"))
    html = markdown.markdown(text, extensions=["tables"])
    assert "# b" in html
    assert "<b>" not in html
    assert html.count("<h1>") == 1


def test_a_matplotlibrc_in_the_current_folder_changes_no_figure(tmp_path):
    (tmp_path / "matplotlibrc").write_text("axes.linewidth: 30\n")
    code = "import bench.report.drawing as d; print(d.mpl.rcParams['axes.linewidth'])"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    command = [sys.executable, "-P", "-c", code]
    shown = subprocess.check_output(command, cwd=tmp_path, env=environment, text=True)
    assert float(shown) == 0.8
