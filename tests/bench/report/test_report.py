"""The report's files, for grids that went well and grids that did not."""

import json
import random
import re
from hashlib import sha256
from html import unescape
from itertools import product
from pathlib import Path
from unittest import mock

import markdown
import numpy as np
import pytest
from click.testing import CliRunner

import bench.report
from adapters.names import LAYER_SETS
from bench.analysis.groups import groups
from bench.common.errors import DiskFullError, InputError
from bench.plan.columns import values_of
from bench.report import cells, tables
from bench.report import pages as report_pages
from bench.report import render as rendering
from bench.report.__main__ import main
from bench.report.changes import amp_section
from bench.report.pages import escape_markdown
from bench.report.render import render, report
from bench.report.text import without_paths
from bench.report.tradeoff import between_processes, sections
from bench.results.outcomes import Outcome
from bench.results.predictions import values_from
from bench.results.store import plan_file
from tests.bench.browsing import seen
from tests.bench.report.snapshots import check_snapshot
from tests.bench.synthetic_rows import (
    as_results,
    cell,
    failed_row,
    full_grid,
    new_row,
    planned_row,
    result_row,
    synthetic_rows,
    write_rows,
)


def pages(folder, rows, runs=(), **more):
    index = render(as_results(rows, runs), folder, **more)
    return index.read_text("utf-8"), (folder / "report.md").read_text("utf-8")


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    return folder, *pages(folder, synthetic_rows(68), runs=["/home/someone/my runs.csv"])


def test_the_page_has_the_sentences_of_all_sections_and_the_markdown_those_of_some(full):
    check_snapshot("markdown", {"report.md": full[2]})
    html = seen(full[1])
    facts = report(as_results(synthetic_rows(68), runs=["my runs.csv"]))
    lines = [*facts["lead"], facts["failures_heading"], *facts["commands_lines"]]
    lines += [*facts["commands"], "still training after 600 s", "my runs.csv"]
    lines += [line for part in facts["sections"] for line in (part.heading, *part.lines)]
    assert all(line in html for line in lines)
    assert "/home" not in html


def test_the_markdown_is_a_page_and_counts_what_it_leaves_out(tmp_path):
    """Of 96 settings of three precisions, a third of whose seeds failed, and 30 other groups."""
    grid = [*product(("lora", "dora"), range(1, 5), LAYER_SETS, ("off", "bf16", "fp16"))]
    parts = {
        "weights_mib": 86.0, "gradients_mib": 80.0, "optimizer_mib": 160.0,
        "activations_mib": 300.0, "imports_anon_mib": 150.0,
    }  # fmt: skip
    rows = [result_row(cell(*axes, seed=seed), **parts) for axes in grid for seed in (0, 1)]
    rows += [result_row(cell(mode, None, None, "off"), **parts) for mode in ("full", "head")]
    rows += [failed_row(cell(*axes, seed=2), "oom", "the host ran out of memory") for axes in grid]
    rows += [
        row | {"conditions_id": f"c{n}", "machine": f"machine {n}", "finished_at": "2025-01-01"}
        for n in range(30) for row in synthetic_rows(4)
    ]  # fmt: skip
    page, text = pages(tmp_path, rows, runs=["runs.csv"])
    assert len(text.splitlines()) < 150
    assert "\n\n\n" not in text
    html = markdown.markdown(text, extensions=["tables"])
    assert html.count("<table>") >= 2
    assert "<img alt=" in html
    assert "<pre><code>python -m bench.grid --grid full --model minilm" in html
    assert html.count("<h1>") == 1
    assert "|" not in seen(html)
    assert re.search(r"10 of \d+ are shown; the rest is in runs\.csv\.", text)
    for shown in (page, text):
        assert "differs in machine (machine 0 instead of Xeon 2.8 GHz" in shown
    assert 'id="group2-tradeoff-memory-alt"' in page
    assert not (tmp_path / "figures" / "group2-tradeoff-memory.svg").exists()
    assert text.count("\n- Group ") == 5
    assert "25 more groups are not named here; their rows are in runs.csv." in text


def test_first_lines_follow_from_the_rows():
    both = synthetic_rows(68 * 2, failures=False)
    right = Outcome(np.arange(1061) < 500, None, "examples")
    kept = values_from(lambda _rows, logits=False: {"": right})
    heads = [row | {"flags": "not_learned"} if row["mode"] == "head" else row
             for row in synthetic_rows(68)]  # fmt: skip
    unlearned = [row if row["mode"] == "full" else row | {"flags": "not_learned"}
                 for row in synthetic_rows(12)]  # fmt: skip
    shared = {"conditions_id": "shared", "sharing": "2 workers"}
    [there] = groups([row | shared for row in synthetic_rows(8)])
    every = {
        "a cap on the training examples": groups(synthetic_rows(68)),
        "none": groups(synthetic_rows(8, max_train=None)),
        "on steps": groups(synthetic_rows(8, max_steps=3)),
        "on steps alone": groups(synthetic_rows(8, max_steps=3, max_train=None)),
        "on dev examples": groups(synthetic_rows(8, max_dev=64)),
        "two seeds": groups(both),
        "two seeds of some": groups(synthetic_rows(100, failures=False)),
        "three seeds, with failures": groups(synthetic_rows(68 * 3)),
        "kept predictions": groups(both, (), kept),
        "random weights": groups(synthetic_rows(68 * 2, failures=False, init="random")),
        "a rating": groups(synthetic_rows(68, task="movies-rating")),
        "two settings learned nothing": groups(heads),
        "nothing but full learned": groups(unlearned),
    }
    parts = {
        title: [rendering.title(group), *rendering.lead(group), *rendering.unlearned(group)]
        for title, [group] in every.items()
    }
    parts["measured beside others"] = rendering.differs(there, every["on dev examples"][0])
    empty = report(as_results([]))
    parts["no rows"] = [empty["title"], *empty["lead"], empty["failures_heading"]]
    check_snapshot("lead", parts)


def test_sections_and_tables_follow_from_the_rows():
    """For each number in a sentence or table that has one."""
    compiled = [
        result_row(cell("lora", 8, "all-lin", "bf16", seed=seed, compile="on"),
                   random.Random(seed), compile_s=seconds, compile_cached=share)  # noqa: S311
        for seed, (seconds, share) in enumerate([(310, 0.0), (21, 1.0), (23, 1.0), (90, 0.5)])
    ]  # fmt: skip
    every = {
        "the full grid": synthetic_rows(68),
        "two seeds": [
            row for row in synthetic_rows(68 * 2, failures=False) if row.rank in (None, 8)
        ],
        "rates of a search": synthetic_rows(12, learning_rate_source="search"),
        "memory of imports": [row | {"imports_anon_mib": 187.0} for row in synthetic_rows(4)],
        "compiled": compiled,
        "random weights": synthetic_rows(8, init="random"),
    }
    parts = {}
    for title, rows in every.items():
        [group] = groups(rows)
        shown = [*sections(group), *amp_section(group), tables.kinds_table(group)]
        parts[title] = [*shown, *tables.conditions_lines(group), *between_processes(group)]
    check_snapshot("sections", parts)
    [group] = groups([row | {"flags": "not_learned"} for row in synthetic_rows(12)])
    assert [section.anchor for section in sections(group)] == ["cost"], "nothing learned"


def test_the_page_refers_to_nothing_outside_itself_and_the_markdown_to_its_pictures(full):
    folder, _, text = full
    links = re.findall(r"\]\((figures/[^)]+)\)", text)
    assert links == ["figures/tradeoff-memory.svg", "figures/tradeoff-time.svg"]
    assert {f"figures/{p.name}" for p in (folder / "figures").iterdir()} == set(links)
    assert "sourceMappingURL" not in full[1]
    assert "@import" not in full[1]
    page = re.sub(r"<(script|style)>.*?</\1>", "", full[1], flags=re.DOTALL)
    links = re.findall(r'\s(?:src|(?:xlink:)?href)="([^"]+)"', page)
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    used = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)|aria-labelledby="([^"]+)"', page)
    assert {next(filter(None, groups)) for groups in used} <= set(ids)


def test_figures_are_the_same_each_time_and_hold_no_date(full, tmp_path, drawn):
    render(as_results(list(reversed(synthetic_rows(68)))), tmp_path)
    for path in (full[0] / "figures").iterdir():
        assert path.read_bytes() == (tmp_path / "figures" / path.name).read_bytes()
        assert "<metadata>" not in path.read_text("utf-8")


@pytest.mark.parametrize("rows", [
    [failed_row(cell(*axes), "crashed", "SIGSEGV") for axes in full_grid()[:6]],
    [row for row in synthetic_rows(68) if row["mode"] == "head"],
    [row | {"flags": "not_learned"} for row in synthetic_rows(68)],
    synthetic_rows(1),
    [row | {"peak_rss_mib": None, "ms_per_1k_tokens": None} for row in synthetic_rows(36)],
    [row | {"dev_ci_low": None, "dev_ci_high": None} for row in synthetic_rows(36)],
    [new_row(cell_id=str(i), conditions_id="c", status="ok", mode="lora") for i in range(3)],
    [row | {"amp": "fp16" if row["amp"] == "bf16" else "off", "device": "cuda:0",
            "peak_cuda_allocated_mib": 400.0} for row in synthetic_rows(36)],
], ids=["failures", "head", "nothing learned", "one", "no costs", "no intervals", "bare",
        "cuda"])  # fmt: skip
def test_grids_of_every_kind_have_a_report(tmp_path, rows):
    html, text = pages(tmp_path, rows)
    assert "nan" not in seen(html).lower().split()
    assert "None" not in seen(html)
    assert "None" not in text


def test_escaped_markdown_reads_as_it_was_written():
    texts = ["a|b", "<b>", "a_b", "`", "*x*", "[a](b)", "\\", "# a", "a & b"]
    rows = "\n".join(f"| {escape_markdown(text)} |" for text in texts)
    html = markdown.markdown(f"| h |\n| --- |\n{rows}", extensions=["tables"])
    assert [unescape(shown) for shown in re.findall("<td>(.*)</td>", html)] == texts
    html = markdown.markdown(str(escape_markdown("in @torch.compile")))
    assert unescape(html) == "<p>in @\u200btorch.compile</p>", "GitHub would notify @torch"


def test_absolute_paths_are_cut():
    for text, shown in (
        ("no file /home/ann/models/bert/config.json", "no file …/config.json"),
        ("'/tmp/x/y.py', line 3", "'…/y.py', line 3"),
        (r"C:\Users\ann\x.bin is torn", "…/x.bin is torn"),
        *[(text, text) for text in ("12 MiB/s and/or 3/4", "a/all-MiniLM-L6-v2",
                                    "see https://example.org/a/b")],
    ):  # fmt: skip
        assert without_paths(text) == shown


def test_figures_of_an_older_report_are_deleted_and_other_files_stay(tmp_path):
    render(as_results([row for row in synthetic_rows(68) if row["layers"] == "attn"]), tmp_path)
    assert (tmp_path / "figures" / "tradeoff-time.svg").exists()
    other = tmp_path / "figures" / "mine.svg"
    other.write_text("<svg/>")
    slow = [row | {"ms_per_1k_tokens": None, "step_ms_median": None} for row in synthetic_rows(8)]
    render(as_results(slow), tmp_path)
    assert other.exists()
    assert not (tmp_path / "figures" / "tradeoff-time.svg").exists()
    assert not list(tmp_path.rglob("*.tmp"))


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    taken = tmp_path / "taken"
    taken.write_text("a file")
    for folder in (taken, taken / "below"):
        with pytest.raises(InputError, match="can't be written") as error:
            render(as_results(synthetic_rows(2)), folder)
        assert "\n" not in str(error.value)
    assert taken.read_text() == "a file"
    full = mock.Mock(side_effect=OSError(28, "No space left on device"))
    monkeypatch.setattr(report_pages, "write_atomically", full)
    with pytest.raises(DiskFullError, match="no space"):
        render(as_results(synthetic_rows(2)), tmp_path)


def test_of_many_rows_some_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(cells, "MOST_OF_A_GROUP", 3)
    rows = [row | {"train_s": None} for row in synthetic_rows(6)]
    assert "3 of 6 are shown; the rest is in the CSV." in pages(tmp_path, rows)[0]
    fields = [*cells.cells_table(groups(rows)).rows[0]]
    assert fields[1:3] == ["–", "–"], "rank and layers of full do not apply"
    assert fields.count("not measured") == 2, "training, and the overhead that follows from it"
    assert "22,713,216" in fields


def test_vendored_files_are_those_of_their_readme():
    for folder in (Path(bench.report.__file__).parent / "vendor").iterdir():
        lines = (folder / "README.md").read_text()
        digests = dict(re.findall(r"\| (\S+) \| \S+ \| ([0-9a-f]{64}) \|", lines))
        assert digests.keys() == {p.name for p in folder.iterdir()} - {"README.md"}
        for name, digest in digests.items():
            assert sha256((folder / name).read_bytes()).hexdigest() == digest


def test_the_command_renders_several_files_with_planned_cells(tmp_path):
    rows, folder = synthetic_rows(6, failures=False), tmp_path / "out"
    paths = [tmp_path / "a.csv", tmp_path / "b.csv"]
    for path, some in zip(paths, (rows[:2], rows[2:]), strict=True):
        write_rows(path, some)
    planned = json.dumps([values_of(planned_row(cell(*axes))) for axes in full_grid()])
    plan_file(paths[0]).parent.mkdir()
    for text, ended in ((planned, "6 of 68 cells"), ('[{"mode": 3}]', "6 of 6 cells")):
        plan_file(paths[0]).write_text(text)
        arguments = ["--runs", *map(str, paths), "--reports", str(folder), "--json"]
        done = CliRunner().invoke(main, arguments, catch_exceptions=False, standalone_mode=False)
        assert done.return_value == 0
        assert done.stderr.startswith("note: ")
        assert json.loads(done.stdout) == {"rows": 6, "report": str(folder / "index.html")}
        assert ended in (folder / "report.md").read_text()
        assert ("62 not run" in (folder / "report.md").read_text()) == ended.endswith("68 cells")
    with pytest.raises(InputError, match=r"no\.csv: no such file"):
        main.main(["--runs", str(tmp_path / "no.csv"), "--reports", "x"], standalone_mode=False)
