"""The words, pages and JSON of constructed comparisons."""

import json
import re
from pathlib import Path

import markdown
import pytest

from bench.analysis.comparison import Verdict
from bench.compare.outcome import as_json, lines, summary
from bench.compare.page import write
from tests.bench.compare.constructed import constructed
from tests.hostile import TEXTS


def test_the_first_sentence_names_the_largest_regression_of_each_measure() -> None:
    outcome = constructed(20, worse=0.5)
    first = summary(outcome)[0]
    assert re.match(
        r"11 regressions: .* newly fails: .*; .*GFLOP of a step 1\.50 times that", first
    )
    assert "and 8 more" in first
    shown = "\n".join(lines(outcome))
    for text in ("times as long", "dev accuracy −0.1", "newly fails: ok, then oom", "would decide"):
        assert text in shown
    assert outcome.exit_code == 1


def test_no_regression_says_what_is_excluded() -> None:
    outcome = constructed(20)
    compared = outcome.comparison
    times = [one for pair in compared.pairs for one in pair.compared if one.measure.kind == "time"]
    excluded = sum(one.verdict in (Verdict.SAME, Verdict.SMALL) for one in times)
    assert 0 < excluded < 20
    assert f"a slowdown of more than 5% in {excluded} of 20 settings" in " ".join(summary(outcome))


def test_pages_are_short_and_all_is_in_the_json(tmp_path: Path) -> None:
    outcome = constructed(1000, worse=0.5)
    page = write(outcome, tmp_path)
    brief = (tmp_path / "compare.md").read_text("utf-8")
    assert len(brief) < 65_536
    assert len(brief.splitlines()) < 150
    assert "30 of" in brief
    html = page.read_text("utf-8")
    assert len(html) < 3_000_000
    assert "500 of 1,000 are shown; all are in compare.json" in html
    assert "The 35 largest and the 35 smallest of 1,000 settings" in html
    data = json.loads((tmp_path / "compare.json").read_text("utf-8"))
    assert data == json.loads(json.dumps(as_json(outcome)))
    assert len(data["settings"]) == 1000
    assert data["exit_code"] == 1
    measure = data["settings"][3]["measures"][0]
    assert (measure["verdict"], measure["change"], measure["gates"]) == ("regression", 1.5, True)


def test_pictures_are_files_and_those_of_an_older_page_go(tmp_path: Path) -> None:
    write(constructed(20, worse=0.5), tmp_path)
    assert {path.stem for path in (tmp_path / "compare").iterdir()} == {
        "step_gflop", "activations_mib", "peak_rss_mib", "dev_score", "ms_per_1k_tokens",
        "machines-ms_per_1k_tokens",
    }  # fmt: skip
    write(constructed(20), tmp_path)
    left = {path.stem for path in (tmp_path / "compare").iterdir()}
    assert left.isdisjoint({"step_gflop", "activations_mib"}), "counts do not differ"


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_texts_of_rows_are_no_markup(tmp_path: Path, text: str) -> None:
    outcome = constructed(12, worse=0.5, text=f" {text} /home/someone/secret/x")
    html = write(outcome, tmp_path).read_text("utf-8")
    brief = (tmp_path / "compare.md").read_text("utf-8")
    shown = [html, markdown.markdown(brief, extensions=["tables"])]
    for page in shown:
        for tag in re.findall(r"<[a-zA-Z][^>]*>", re.sub(r"<style.*?</style>", "", page, flags=16)):
            assert not re.match(r"<(script|img|iframe|object|a\s+href=.?javascript)", tag), tag
            assert not re.search(r"\son\w+\s*=|x\.invalid", tag), tag
    assert all(line.isprintable() for line in lines(outcome))
    texts = [brief, html, (tmp_path / "compare.json").read_text("utf-8"), *lines(outcome)]
    assert not any("/home/someone" in each for each in texts)
    assert len(brief.encode()) < 65_536


def test_the_json_holds_no_number_that_is_not_finite() -> None:
    outcome = constructed(12)
    object.__setattr__(outcome.comparison.pairs[0].compared[0], "base", float("nan"))
    json.dumps(as_json(outcome), allow_nan=False)
