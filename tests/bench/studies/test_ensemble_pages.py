"""What `python -m bench.ensemble` leaves: JSON, a CSV, and pages with figures."""

import csv
import re
from dataclasses import replace
from unittest import mock

import markdown
import pytest

from bench.common import csvfile
from bench.common.errors import DiskFullError
from bench.results.overall import overall, overall_interval
from bench.studies.ensemble.members import find
from bench.studies.ensemble.page import facts_of
from bench.studies.ensemble.result import COLUMNS, ensemble_of, overall_of, published
from tests.bench.browsing import PHONE, WIDE, open_quietly, seen
from tests.bench.ensembles import DEV, PARTS
from tests.hostile import TEXTS


def fill(place, *tasks, seeds=3):
    for task in tasks:
        for seed in range(seeds):
            place.add(seed, task=task, data_digest=task)
    return place


def facts(place, *, with_published=False):
    results = [ensemble_of(candidates, "probabilities", 8) for candidates in find([place.csv])]
    if with_published:
        results = [replace(result, published=published(result.task)) for result in results]
    overall = overall_of(results)
    return facts_of([*([overall] if overall else []), *results], "python")


def test_tasks_with_a_score_in_common_are_taken_together_in_json_and_csv(place, tmp_path, answer):
    """With differences to the best member and to the ensemble."""
    fill(place, *PARTS)
    result = answer("--csv", str(tmp_path / "ensemble.csv"))
    tasks, together = result["tasks"], result["overall"]
    named = [(task["task"], task["metric"]) for task in tasks]
    assert named == [*zip(PARTS, ("accuracy", "accuracy", "pearson"), strict=True)]
    assert (together["parts"], together["missing"]) == (list(PARTS), [])
    expected = []
    for of in (*tasks, {"task": "sst+quora+sts", **together}):
        best = of.get("best_member") or of["best_members"]
        for row in (of["ensemble"], best, *of.get("cells", ())):
            row = {"task": of["task"], "metric": of["metric"], **row}
            texts = {name: "" if value is None else str(value) for name, value in row.items()}
            expected.append({name: texts.get(name, "") for name in COLUMNS})
    with (tmp_path / "ensemble.csv").open(newline="", encoding="utf-8") as file:
        assert [*csv.DictReader(file)] == expected
    assert len(expected) == 3 * 5 + 2
    for task in tasks:
        [size] = [at for at, step in enumerate(task["choice"], start=1) if step["taken"]]
        assert sum(cell["weight"] for cell in task["cells"]) == size
        for at, of in (size - 1, task["ensemble"]), (0, task["best_member"]):
            for name in ("held_score", "dev_score"):
                assert task["choice"][at][name] == pytest.approx(of[name])
    for of in (*tasks, together):
        ensemble, best = of["ensemble"], of.get("best_member") or of["best_members"]
        names = ("difference", "difference_ci_low", "difference_ci_high")
        gain = of["gain"]
        assert [ensemble[name] for name in names] == [gain[end] for end in ("value", "low", "high")]
        assert gain["value"] == pytest.approx(ensemble["dev_score"] - best["dev_score"])
        assert best["difference"] is ensemble["to_ensemble"] is None
        assert best["to_ensemble"] == pytest.approx(-gain["value"])
        assert best["to_ensemble_ci_low"] == pytest.approx(-gain["high"])
        for cell in of.get("cells", ()):
            gap = cell["dev_score"] - ensemble["dev_score"]
            assert cell["to_ensemble"] == pytest.approx(gap)
            assert cell["to_ensemble_ci_low"] <= gap <= cell["to_ensemble_ci_high"]
            gap = cell["dev_score"] - best["dev_score"]
            is_best = cell["name"] == best["name"]
            assert cell["difference"] == (None if is_best else pytest.approx(gap))
    for name, key in (("ensemble", "ensemble"), ("best_members", "best_member")):
        for column in ("held_score", "dev_score"):
            scores = {task["task"]: task[key][column] for task in tasks}
            assert together[name][column] == pytest.approx(overall(scores))
        ends = overall_interval(scores, dict.fromkeys(PARTS, DEV)).ends()
        assert (together[name]["dev_ci_low"], together[name]["dev_ci_high"]) == pytest.approx(ends)
    halves = [(task["gain"]["high"] - task["gain"]["low"]) / 2 for task in tasks]
    halves[PARTS.index("sts")] /= 2  # of (1 + r) / 2
    half = sum(part**2 for part in halves) ** 0.5 / 3
    gain = together["gain"]
    assert (gain["high"] - gain["low"]) / 2 == pytest.approx(half, rel=0.02)
    assert gain["low"] > 0


def test_the_pages_show_each_task_and_all_together(place, tmp_path, capsys, monkeypatch):
    fill(place, "sst", "sts")
    reports = tmp_path / "reports"
    monkeypatch.setattr("sys.argv", ["", "--most", "8"])
    assert place.run("--most", "8", "--reports", str(reports)) == 0
    assert f"report: {reports / 'ensemble.html'}\n" in capsys.readouterr().err
    page, text = ((reports / f"ensemble.{end}").read_text("utf-8") for end in ("html", "md"))
    result = facts(place)
    assert [section.short for section in result.sections] == ["all together", "sst", "sts"]
    for words in (seen(page, "style|svg"), seen(markdown.markdown(text, extensions=["tables"]))):
        for line in (
            "Ensembles on sst and sts",
            *result.findings,
            *(line for part in result.sections for line in (part.heading, *part.lines)),
            "The members, and the score of each alone.",
            "lora-r8-attn-fp32-s2",
            "python -m bench.ensemble --most 8",
        ):
            assert line in words
    stems = {path.stem for path in (reports / "ensemble").iterdir()}
    kinds = {f"{task}-{kind}" for task in ("sst", "sts", "overall")
             for kind in ("choice", "parameters", "scores")}  # fmt: skip
    assert stems == kinds - {"overall-choice"}
    for stem in stems:
        assert re.search(rf'<p class="alt" id="{stem}-alt">.{{40,}}</p>', page)
        assert f"](ensemble/{stem}.svg)" in text


def test_published_scores_stand_apart_and_those_of_all_parts_in_no_figure_of_some(place, undrawn):
    some = facts(fill(place, "sst", "sts"), with_published=True).sections[0]
    assert all("Lisan" not in drawing.alt for drawing in some.drawings)
    assert any("Lisan" in row[0] for table in some.tables for row in table.rows)
    result = facts(fill(place, "quora"), with_published=True)
    drawn = {drawing.stem: drawing for part in result.sections for drawing in part.drawings}
    for stem in ("sst-scores", "quora-scores", "sts-scores", "overall-scores"):
        ours, _, papers = drawn[stem].alt.partition(" Published, on other examples: ")
        assert papers
        assert "large" not in ours
    assert "BERT-base 0.532 with 110,000,000" in drawn["sst-parameters"].alt
    assert "Heinsen" not in drawn["sst-parameters"].alt, "its parameters are not known"
    (row,) = [row for row in result.sections[1].tables[-1].rows if "Heinsen" in row[0]]
    assert {"0.598", "SST-5 test", "arXiv 2211.11754"} < {*row}
    drawings = [drawing for part in facts(place).sections for drawing in part.drawings]
    assert "ublished" not in "".join(drawing.alt + drawing.caption for drawing in drawings)


@pytest.mark.parametrize(("cells", "most", "finding", "why"), [
    (4, 8, "significantly better", r"\+0\.\d{3} \(\+.* to \+.*\): significantly better"),
    (1, 8, "no significant difference", "no addition made it better on what was held out"),
    (1, 1, "no significant difference", "no more were allowed"),
])  # fmt: skip
def test_the_finding_is_the_gain_or_why_a_member_is_alone(place, cells, most, finding, why):
    (candidates,) = find([fill(place, "movies", seeds=cells).csv])
    result = facts_of([ensemble_of(candidates, "probabilities", most)], "python")
    assert result.title == "An ensemble on movies"
    assert result.sections[0].heading == f"movies: {finding}"
    assert re.search(f" {why}\\.$", result.sections[0].lines[0])


def test_very_many_cells_are_in_the_table_and_the_best_in_the_figure(place, undrawn):
    for seed in range(45):
        place.add(seed)
    (section,) = facts(place).sections
    assert "40 of 44" in section.drawings[0].caption
    assert sum(len(table.rows) for table in section.tables[1:]) == 45
    assert section.tables[2].folded


def test_a_page_holds_what_users_wrote_as_text(place, tmp_path):
    names = [text for text in TEXTS if text.isprintable() and len(text) < 500]
    for seed, text in enumerate([*names, "a\u202etxt.exe b"]):
        place.add(seed, model=text, model_digest=f"{seed:04x}")
    assert place.run("--reports", str(tmp_path)) == 0
    page, text = ((tmp_path / f"ensemble.{end}").read_text("utf-8") for end in ("html", "md"))
    assert "&lt;script&gt;window.pwned" in page
    for tag in re.findall(r"<[a-zA-Z][^>]*>", re.sub(r"(?s)<style>.*?</style>", "", page)):
        assert not re.search(r"<script|\son\w+\s*=|javascript:", tag), tag
    assert not re.search(r"<a |<script", markdown.markdown(text, extensions=["tables"]))
    for whole in (page, text):
        assert not {char for char in whole if not char.isprintable()} - {"\n"}


def test_places_that_cant_be_written_are_refused_before_anything(place, tmp_path, capsys):
    fill(place, "movies")
    before = place.csv.read_bytes()
    for arguments, message in (
        (["--csv", str(tmp_path)], "is a folder; name a file"),
        (["--csv", str(tmp_path / "no" / "x.csv")], "name a file in a folder that is there"),
        (["--csv", str(place.csv)], "is an input file; name another"),
        (["--reports", str(place.csv)], "is a file; name a folder"),
        (["--reports", "/proc/x"], "--reports: /proc/x can't be written"),
    ):
        assert message in place.refused(*arguments)
    assert capsys.readouterr().out == ""
    assert place.csv.read_bytes() == before


def test_a_csv_has_no_formula_and_survives_a_full_disk(place, tmp_path, monkeypatch):
    place.add(0, model="=1+1")
    path = tmp_path / "x.csv"
    assert place.run("--csv", str(path)) == 0
    before = path.read_bytes()
    assert b",'=1+1," in before
    full = OSError(28, "No space left on device")
    monkeypatch.setattr(csvfile, "write_atomically", mock.Mock(side_effect=full))
    with pytest.raises(DiskFullError, match="no space left"):
        place.run("--most", "1", "--csv", str(path))
    assert path.read_bytes() == before


def test_it_opens_quietly_offline_and_nothing_sticks_out(browser, place, tmp_path):
    fill(place, "sst", "sts")
    place.add_whole(7)
    assert place.run("--reports", str(tmp_path)) == 0
    for size in (WIDE, PHONE):
        page = open_quietly(browser, tmp_path / "ensemble.html", size)
        heights = page.evaluate(
            "[...document.querySelectorAll('figure svg text')]"
            ".map(t => t.getBoundingClientRect().height)"
        )
        assert min(heights) >= 7
        page.close()
