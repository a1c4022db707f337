"""The words, pages and JSON of constructed comparisons."""

import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import markdown

from bench.compare.conclusion import as_json, summary
from bench.compare.page import _results, write
from tests.bench.browsing import PAPER, WIDE, open_quietly
from tests.bench.compare.constructed import MEASURES, constructed
from tests.hostile import TEXTS

SENTENCES = Path(__file__).with_name("sentences.txt")


def test_the_sentences_and_pictures_of_a_comparison(tmp_path):
    worse, same = constructed(20, worse=0.5), constructed(20)
    assert (worse.exit_code, same.exit_code) == (1, 1), "a cell newly fails"
    lines = summary(replace(worse, strict=True), details=True)
    assert "\n".join([*lines, "", *summary(same), ""]) == SENTENCES.read_text("utf-8")
    write(same, tmp_path)
    assert {path.stem for path in (tmp_path / "compare").iterdir()} == {
        "peak_rss_mib", "dev_score", "ms_per_1k_tokens", "machines-ms_per_1k_tokens",
    }, "a picture of each measure that differs, so of no count"  # fmt: skip


def test_pages_are_short_and_all_is_in_the_json(tmp_path):
    conclusion = constructed(544, worse=0.5)
    page = write(conclusion, tmp_path)
    brief = (tmp_path / "compare.md").read_text("utf-8")
    assert len(brief) < 65_536
    assert len(brief.splitlines()) < 140
    assert "30 of" in brief
    assert all(f"| {text} | regression |" in brief for text in ("time", "dev accuracy"))
    html = page.read_text("utf-8")
    assert len(html) < 3_000_000
    assert "500 of 544 are shown; all are in compare.json" in html
    assert "The 35 largest and the 35 smallest of 544 settings" in html
    text = (tmp_path / "compare.json").read_text("utf-8")
    assert text.endswith("}\n")
    data = json.loads(text)
    assert data == json.loads(json.dumps(as_json(conclusion)))
    assert (len(data["settings"]), data["exit_code"]) == (544, 1)
    measure = data["settings"][3]["measures"][0]
    assert (measure["verdict"], measure["change"], measure["gates"]) == ("regression", 1.5, True)


def test_the_longest_texts_leave_a_few_rows_of_each_table(tmp_path):
    write(constructed(200, worse=0.5, texts=["|" * 380]), tmp_path)
    brief = (tmp_path / "compare.md").read_text("utf-8")
    assert len(brief) < 65_536
    captions = re.findall(r"(\d+) of [\d,]+ are shown", brief)
    assert captions == ["1", "3", "1"], "changed cells, results, machines"
    tables = re.findall(r"(?:^\|.*\n)+", brief, flags=re.MULTILINE)
    assert min(table.count("\n") for table in tables) > 2, "heads and a row at least"


def test_it_opens_quietly_offline_and_nothing_sticks_out(browser, tmp_path):
    """And no table is cut in a wide window or in print."""
    long = " on all-lin-only, bf16 against dora rank 8 on all-lin-only, frozen weights in bf16"
    path = write(constructed(40, worse=0.5, texts=[long]), tmp_path)
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    cut += ".map(e => [e.ariaLabel, e.scrollWidth])"
    for size in ({"width": 360, "height": 800}, WIDE):
        page = open_quietly(browser, path, size)
        headline, title = page.locator("header .headline"), page.locator("h1")
        assert headline.inner_text() == "23 regressions in 40 settings."
        size_of = "e => parseFloat(getComputedStyle(e).fontSize)"
        assert headline.evaluate(size_of) > title.evaluate(size_of), "the verdict is the headline"
        figures = page.query_selector_all("figure svg")
        assert len(figures) == 6, "a picture for each measure, and one of machines"
        assert all(300 <= svg.bounding_box()["width"] <= size["width"] for svg in figures)
        if size == WIDE:
            assert page.evaluate(cut) == []
            page.set_viewport_size(PAPER)
            page.emulate_media(media="print")
            assert page.evaluate(cut) == []
        page.close()


def test_rows_begin_with_what_is_worse_and_end_with_exact_counts():
    exact = {measure.label for measure in MEASURES if measure.exact}
    conclusion = constructed(68, worse=0.5)
    [table] = _results(conclusion.comparison, 500)
    at = [head.key for head in table.heads].index
    rows = [(row[at("measure")], row[at("verdict")]) for row in table.rows]
    worse = [verdict == "regression" for _, verdict in rows]
    assert worse == sorted(worse, reverse=True)
    assert 0 < sum(worse) == len(conclusion.comparison.regressions)
    for part in (rows[: sum(worse)], rows[sum(worse) :]):
        counts = [measure in exact for measure, _ in part]
        assert counts == sorted(counts)
    others = Counter(rows[sum(worse) :])
    assert max(others.values()) == 5, "of one verdict and measure"
    number = f"{len(rows)} of "
    assert number in table.caption


def test_texts_of_rows_are_no_markup(tmp_path):
    texts = [f" {text} /home/someone/secret/x" for text in TEXTS]
    conclusion = constructed(20, worse=0.5, texts=texts)
    html = write(conclusion, tmp_path).read_text("utf-8")
    brief = (tmp_path / "compare.md").read_text("utf-8")
    for page in (html, markdown.markdown(brief, extensions=["tables"])):
        for tag in re.findall(r"<[a-zA-Z][^>]*>", re.sub(r"<style.*?</style>", "", page, flags=16)):
            assert not re.match(r"<(script|img|iframe|object|a\s+href=.?javascript)", tag), tag
            assert not re.search(r"\son\w+\s*=|x\.invalid", tag), tag
    lines = summary(conclusion, details=True)
    assert all(line.isprintable() for line in lines)
    data = (tmp_path / "compare.json").read_text("utf-8")
    assert not any("/home/someone" in each for each in (brief, html, data, *lines))
    assert len(brief.encode()) < 65_536


def test_every_key_of_the_json_is_documented_and_every_number_finite():
    document = (Path(__file__).parents[3] / "docs" / "comparing.md").read_text("utf-8")
    documented = set(re.findall(r"`([a-z_]+)`", document.partition("## The JSON")[2]))
    conclusion = constructed(12)
    object.__setattr__(conclusion.comparison.pairs[0].compared[0], "base", float("nan"))
    data = as_json(conclusion)
    json.dumps(data, allow_nan=False)
    setting, machines = data["settings"][0], data["machines"]
    row = machines["rows"][0]
    parts = [data, data["base"], data["differs"][0], data["not_matched"][0], setting,
             setting["measures"][0], machines, row, row["costs"][0]]  # fmt: skip
    keys = {key for part in parts for key in part}
    assert keys <= documented
    assert documented <= keys | data["limits"].keys() | row["costs"][0]["absolute"].keys()
