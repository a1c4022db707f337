"""What `python -m bench.ensemble` leaves: a CSV, and pages with figures."""

import csv
import re
from collections.abc import Mapping
from html import unescape
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import markdown
import pytest

from bench.common import csvfile
from bench.common.errors import DiskFullError
from bench.report import pages
from bench.report.drawing import MARK
from bench.studies.ensemble.members import find
from bench.studies.ensemble.page import Facts, facts_of
from bench.studies.ensemble.result import TaskResult, ensemble_of, overall_of
from bench.studies.ensemble.rows import COLUMNS
from minbert.data.tasks import TASKS
from tests.bench.ensembles import ADAPTER, ENCODER, PARTS, Place
from tests.bench.report.test_browser import PHONE, WIDE, open_page
from tests.hostile import TEXTS

NAMES = [*(text for text in TEXTS if text.isprintable() and len(text) < 500), "a\u202etxt.exe b"]
"""Of models, as somebody might call them."""


def fill(place: Place, *tasks: str, seeds: int = 3) -> Place:
    """Cells of some tasks."""
    for task in tasks:
        for seed in range(seeds):
            place.add(seed, task=task, data_digest=task)
    return place


def results_of(place: Place) -> list[TaskResult]:
    return [ensemble_of(candidates, "probabilities", 8) for candidates in find([place.csv])]


def facts(place: Place, *, with_published: bool = False) -> Facts:
    results = results_of(place)
    overall = overall_of(results)
    return facts_of(
        [*([overall] if overall else []), *results], "python", with_published=with_published
    )


def seen(html: str) -> str:
    """The text of a page as one line."""
    html = re.sub(r"<(style|svg).*?</\1>", " ", html, flags=re.DOTALL)
    return unescape(" ".join(re.sub(r"<[^>]+>", " ", html).split()))


# The choice


def test_the_stages_of_the_choice_lead_to_the_ensemble(place: Place) -> None:
    (result,) = results_of(fill(place, "sts", seeds=4))
    assert len(result.stages) == 8
    taken = result.stages[: result.size]
    added = [stage.added.row["cell_id"] for stage in taken]
    for member, weight in result.members:
        assert added.count(member.row["cell_id"]) == weight
    assert taken[-1].held_score == result.ensemble.held_score
    assert taken[-1].dev_score == pytest.approx(result.ensemble.dev.value)
    first = result.stages[0]
    assert first.added is result.best_member
    assert (first.held_score, first.dev_score) == pytest.approx(
        (result.best.held_score, result.best.dev.value)
    )
    highest = max(stage.held_score or 0.0 for stage in result.stages)
    assert [stage.held_score for stage in result.stages].index(highest) == result.size - 1


def test_each_candidate_is_scored_alone(place: Place) -> None:
    place.add(0)
    place.add(1, model="other", model_digest="feed")
    (result,) = results_of(place)
    assert [entry.name for entry in result.alone] == [
        "lora-r8-attn-fp32-s0, minilm", "lora-r8-attn-fp32-s1, other",
    ]  # fmt: skip
    best = next(entry for entry in result.alone if entry.members[0] is result.best_member)
    assert (best.name, best.dev, best.held_score) == (
        result.best.name, result.best.dev, result.best.held_score,
    )  # fmt: skip
    assert best.parameters == ENCODER + ADAPTER


# The CSV


def figures_of(row: Mapping[str, Any]) -> dict[str, str]:
    """A row of the JSON as the CSV has it."""
    return {name: "" if row[name] is None else str(row[name]) for name in COLUMNS if name in row}


def test_the_csv_has_the_figures_of_the_json(place: Place, tmp_path: Path, printed: Any) -> None:
    fill(place, *PARTS)
    path = tmp_path / "ensemble.csv"
    assert place.run("--csv", str(path), "--json") == 0
    result = printed()
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == COLUMNS
    expected = []
    for task in result["tasks"]:
        of = {"task": task["task"], "metric": task["metric"]}
        scored = [task["ensemble"], task["best_member"], *task["cells"]]
        expected += [{**of, **figures_of(row)} for row in scored]
    overall = result["overall"]
    of = {"task": "sst+quora+sts", "metric": "overall"}
    expected += [{**of, **figures_of(overall[key])} for key in ("ensemble", "best_members")]
    assert [{**dict.fromkeys(COLUMNS, ""), **row} for row in expected] == rows
    assert len(rows) == 3 * 5 + 2


def test_differences_are_to_the_best_member(place: Place, printed: Any) -> None:
    fill(place, "movies")
    assert place.run("--json") == 0
    result = printed()
    ensemble, best = result["ensemble"], result["best_member"]
    gain = [result["gain"][name] for name in ("value", "low", "high")]
    assert [ensemble["difference"], ensemble["difference_ci_low"],
            ensemble["difference_ci_high"]] == gain  # fmt: skip
    assert best["difference"] is None
    assert sum(cell["weight"] for cell in result["cells"]) == sum(
        stage["taken"] * size for size, stage in enumerate(result["choice"], start=1)
    )
    for cell in result["cells"]:
        if cell["name"] == best["name"]:
            assert cell["difference"] is None
        else:
            assert cell["difference"] == pytest.approx(cell["dev_score"] - best["dev_score"])


def test_differences_are_to_the_ensemble_too(place: Place, printed: Any) -> None:
    fill(place, *PARTS)
    assert place.run("--json") == 0
    result = printed()
    for of in (*result["tasks"], result["overall"]):
        ensemble, best = of["ensemble"], of.get("best_member") or of["best_members"]
        assert ensemble["to_ensemble"] is None
        assert best["to_ensemble"] == pytest.approx(-of["gain"]["value"])
        assert best["to_ensemble_ci_low"] == pytest.approx(-of["gain"]["high"])
        for cell in of.get("cells", ()):
            gap = cell["dev_score"] - ensemble["dev_score"]
            assert cell["to_ensemble"] == pytest.approx(gap)
            assert cell["to_ensemble_ci_low"] <= gap <= cell["to_ensemble_ci_high"]


def test_a_text_in_the_csv_is_no_formula(place: Place, tmp_path: Path) -> None:
    place.add(0, model="=1+1")
    path = tmp_path / "ensemble.csv"
    assert place.run("--csv", str(path)) == 0
    with path.open(newline="", encoding="utf-8") as file:
        assert {row["model"] for row in csv.DictReader(file)} == {"'=1+1"}


# The pages


def test_the_pages_show_each_task_and_all_together(
    place: Place,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(place, "sst", "sts")
    reports = tmp_path / "reports"
    monkeypatch.setattr("sys.argv", ["", "--most", "8"])
    assert place.run("--most", "8", "--reports", str(reports)) == 0
    assert f"report: {reports / 'ensemble.html'}\n" in capsys.readouterr().err
    page = (reports / "ensemble.html").read_text("utf-8")
    text = (reports / "ensemble.md").read_text("utf-8")
    result = facts(place)
    assert [section.short for section in result.sections] == ["all together", "sst", "sts"]
    for words in (seen(page), seen(markdown.markdown(text, extensions=["tables"]))):
        for said in (
            "Ensembles on sst and sts",
            *result.findings,
            *(section.heading for section in result.sections),
            *(line for section in result.sections for line in section.lines),
            "No ensemble of quora is in it, so it is no score of all three.",
            "Movies and sst share their sentences",
            "The members, and the score of each alone.",
            "lora-r8-attn-fp32-s2",
            "Dev chooses nothing.",
            "python -m bench.ensemble --most 8",
        ):
            assert said in words
    assert "://" not in page.replace("http://www.w3.org", "").replace("https://www.w3.org", "")


def test_the_finding_is_the_gain_and_whether_it_is_significant(place: Place) -> None:
    (result,) = results_of(fill(place, "movies", seeds=4))
    gain = result.gain
    assert gain.low is not None
    assert gain.low > 0
    (section,) = facts(place).sections
    assert section.heading == "movies: significantly better"
    said = f"{gain.value:+.3f} ({gain.low:+.3f} to {gain.high:+.3f}): significantly better."
    assert section.lines[0].endswith(said)


def test_figures_are_there_and_have_a_text(place: Place, tmp_path: Path) -> None:
    fill(place, "sst", "sts")
    assert place.run("--reports", str(tmp_path)) == 0
    found = sorted(path.name for path in (tmp_path / "ensemble").iterdir())
    kinds = ("choice", "parameters", "scores")
    assert found == sorted(
        [*(f"{task}-{kind}.svg" for task in ("sst", "sts") for kind in kinds),
         "overall-parameters.svg", "overall-scores.svg"]
    )  # fmt: skip
    for name in found:
        svg = (tmp_path / "ensemble" / name).read_text("utf-8")
        assert ElementTree.fromstring(svg.encode()).tag.endswith("svg")  # noqa: S314
        assert "mathdefault" not in svg
    page = (tmp_path / "ensemble.html").read_text("utf-8")
    text = (tmp_path / "ensemble.md").read_text("utf-8")
    for name in found:
        stem = name.removesuffix(".svg")
        (alt,) = re.findall(rf'<p class="alt" id="{stem}-alt">(.*?)</p>', page)
        assert len(alt) > 40
        assert f'aria-labelledby="{stem}-alt"' in page
        assert f"](ensemble/{name})" in text
    ids = re.findall(r'\bid="([^"]+)"', page)
    assert len(ids) == len(set(ids))


def test_pages_are_the_same_whenever_they_are_made(place: Place, tmp_path: Path) -> None:
    fill(place, "sst", "sts")
    made = []
    for name in ("one", "other"):
        assert place.run("--reports", str(tmp_path / name)) == 0
        paths = sorted(path for path in (tmp_path / name).rglob("*") if path.is_file())
        made.append([(path.relative_to(tmp_path / name), path.read_bytes()) for path in paths])
    assert made[0] == made[1]


def test_published_scores_stand_apart(place: Place) -> None:
    result = facts(fill(place, "sst", "quora", "sts"), with_published=True)
    drawn = {drawing.stem: drawing for part in result.sections for drawing in part.drawings}
    for stem in ("sst-scores", "quora-scores", "sts-scores", "overall-scores"):
        ours, _, papers = drawn[stem].alt.partition(" Published, on other examples: ")
        assert papers
        assert "large" not in ours
        assert "no comparison" in drawn[stem].caption
    assert "BERT-base 0.532 with 110,000,000" in drawn["sst-parameters"].alt
    assert "Heinsen" not in drawn["sst-parameters"].alt, "its parameters are not known"
    assert any("Heinsen" in row[0] for table in result.sections[1].tables for row in table.rows)
    drawings = [drawing for part in facts(place).sections for drawing in part.drawings]
    assert "ublished" not in "".join(drawing.alt + drawing.caption for drawing in drawings)


def test_a_score_of_all_parts_stands_in_no_figure_of_some(place: Place) -> None:
    result = facts(fill(place, "sst", "sts"), with_published=True)
    overall = result.sections[0]
    assert all("Lisan" not in drawing.alt for drawing in overall.drawings)
    assert any("Lisan" in row[0] for table in overall.tables for row in table.rows)


def test_a_best_member_that_nobody_joins_is_the_finding(place: Place) -> None:
    place.add(0)
    result = facts(place)
    assert result.title == "An ensemble on movies"
    assert result.sections[0].heading == "movies: no significant difference"
    assert "no addition made it better on what was held out" in result.sections[0].lines[0]


def test_where_nobody_may_join_no_addition_was_tried(place: Place) -> None:
    (candidates,) = find([fill(place, "movies").csv])
    result = facts_of([ensemble_of(candidates, "probabilities", 1)], "python", with_published=False)
    (section,) = result.sections
    assert section.lines[0].endswith("no more were allowed.")
    assert "no addition" not in section.lines[0]


def test_very_many_cells_are_in_the_table_and_the_best_in_the_figure(place: Place) -> None:
    for seed in range(45):
        place.add(seed)
    (section,) = facts(place).sections
    assert "40 of 44" in section.drawings[0].caption
    assert sum(len(table.rows) for table in section.tables[1:]) == 45
    assert section.tables[2].folded


def test_a_page_holds_what_users_wrote_as_text(place: Place, tmp_path: Path) -> None:
    for seed, text in enumerate(NAMES):
        place.add(seed, model=text, model_digest=f"{seed:04x}")
    assert place.run("--reports", str(tmp_path)) == 0
    page = (tmp_path / "ensemble.html").read_text("utf-8")
    page = re.sub(r"<style>.*?</style>", "", page, flags=re.DOTALL)
    assert "&lt;script&gt;window.pwned" in page
    assert "<script" not in page
    for tag in re.findall(r"<[a-zA-Z][^>]*>", page):
        assert not re.search(r"\son\w+\s*=|javascript:", tag), tag
    text = (tmp_path / "ensemble.md").read_text("utf-8")
    html = markdown.markdown(text, extensions=["tables"])
    assert "<script" not in html
    assert not re.search(r"<a ", html)
    for whole in (page, text):
        assert not {char for char in whole if not char.isprintable()} - {"\n"}


def test_only_figures_of_older_pages_are_dropped(place: Place, tmp_path: Path) -> None:
    (tmp_path / "ensemble").mkdir()
    (tmp_path / "ensemble" / "old.svg").write_text(f"<svg>{MARK}</svg>")
    (tmp_path / "ensemble" / "mine.svg").write_text("<svg></svg>")
    fill(place, "movies")
    assert place.run("--reports", str(tmp_path)) == 0
    names = {path.name for path in (tmp_path / "ensemble").iterdir()}
    assert "mine.svg" in names
    assert "old.svg" not in names


# What can't be written


def test_places_that_cant_be_written_are_refused_before_anything(
    place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill(place, "movies")
    taken = tmp_path / "taken"
    taken.write_text("a file")
    before = place.csv.read_bytes()
    for arguments, message in (
        (["--csv", str(tmp_path)], "is a folder; name a file"),
        (["--csv", str(tmp_path / "no" / "x.csv")], "name a file in a folder that is there"),
        (["--csv", str(place.csv)], "is an input file; name another"),
        (["--reports", str(taken)], "is a file; name a folder"),
        (["--reports", "/proc/x"], "--reports: /proc/x can't be written"),
    ):
        assert message in place.refused(*arguments)
    assert capsys.readouterr().out == ""
    assert place.csv.read_bytes() == before
    assert taken.read_text() == "a file"


def test_a_full_disk_leaves_what_was_there(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(place, "movies")
    path, reports = tmp_path / "x.csv", tmp_path / "reports"
    assert place.run("--csv", str(path), "--reports", str(reports)) == 0
    before = path.read_bytes(), (reports / "ensemble.html").read_bytes()

    def fail(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(csvfile, "write_atomically", fail)
    monkeypatch.setattr(pages, "write_atomically", fail)
    for arguments in (["--csv", str(path)], ["--reports", str(reports)]):
        with pytest.raises(DiskFullError, match="no space left"):
            place.run("--most", "1", *arguments)
    assert (path.read_bytes(), (reports / "ensemble.html").read_bytes()) == before


# In a browser


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["wide", "phone"])
def test_it_opens_quietly_offline_and_nothing_sticks_out(
    browser: Any, place: Place, tmp_path: Path, size: dict[str, int]
) -> None:
    fill(place, "sst", "sts")
    place.add_whole(7)
    assert place.run("--reports", str(tmp_path)) == 0
    page = open_page(browser, tmp_path / "ensemble.html", size)
    for details in page.query_selector_all("details"):
        details.evaluate("e => { e.open = true }")
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") == size["width"]
    for svg in page.query_selector_all("figure svg"):
        sizes = svg.evaluate(
            "s => [...s.querySelectorAll('text')].map(t => t.getBoundingClientRect().height)"
        )
        assert min(sizes) >= 7
    page.close()


def test_notes_of_the_data_are_on_the_page(place: Place) -> None:
    (section,) = facts(fill(place, "quora")).sections
    said = " ".join(section.lines).lower()
    for note in TASKS["quora"].notes:
        assert note.lower() in said
