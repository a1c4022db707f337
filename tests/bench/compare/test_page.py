"""The words, pages and JSON of comparisons of made-up rows."""

import json
import random
import re
from collections import Counter
from dataclasses import replace
from itertools import cycle
from pathlib import Path
from types import SimpleNamespace

import markdown

from bench.analysis.comparison import MEASURES, Limits
from bench.compare import page as page_of
from bench.compare.conclusion import as_json, conclude, summary
from bench.compare.page import _machine_drawings, _results, write
from bench.compare.sides import SideRows
from bench.results.outcomes import no_values
from tests.bench.browsing import PAPER, WIDE, open_quietly
from tests.bench.synthetic_rows import cell, failed_row, full_grid, result_row
from tests.hostile import TEXTS


def concluded(number=68, worse=0.0, texts=("",)):
    """A comparison of some settings, each tenth of which is worse in NEW, and which two other
    machines ran as well; each text is added to those of some settings."""
    noise, rows = random.Random(1), ([], [])  # noqa: S311
    settings = [(axes, size) for size in range(1, 9) for axes in full_grid()][:number]
    for place, ((axes, size), text) in enumerate(zip(settings, cycle(texts), strict=False)):
        for run in range(6):
            seed, is_new = divmod(run, 2)
            one = cell(*axes, seed, batch_size=size)
            here = {"code_version": f"{is_new}{text}", "started_at": f"2026-11-20T10:0{run}:00Z"}
            costs = {"step_gflop": 8.0, "activations_mib": 300.0,
                     "ms_per_1k_tokens": 40 * noise.gauss(1, 0.01)}  # fmt: skip
            row = result_row(one, noise, **costs, **here)
            shift = worse * {3: 1.0, 4: 0.02}.get(place % 10, 0.0) * is_new
            row |= {name: row[name] * (1 + shift) for name in (*costs, "peak_rss_mib")}
            row |= {"dev_score": 0.5 + noise.gauss(0, 0.0005) - shift / 5}
            if seed and (place % 15, is_new) in ((5, True), (6, False)):
                row = failed_row(one, "oom", f"no memory{text}", **here)
            rows[is_new].append(row | {"layers": row.layers and f"{row.layers}{text}"})
    dora = result_row(cell("dora", 3, "attn", "off"))
    rows[1].extend(dora | {"layers": f"attn{text}", "cell_id": text} for text in texts)

    def side(is_new, machine, **faster):
        own = [row | {"machine": f"{machine}{texts[-is_new]}", "conditions_id": machine}
               | (faster if row.rank == 2 else {}) for row in rows[is_new]]  # fmt: skip
        return SideRows(Path(f"{is_new}{texts[0]}.csv"), f"amp=off{texts[-1]}", own, no_values)

    old, new, elsewhere = side(0, "Xeon"), side(1, "Xeon"), side(1, "EPYC", ms_per_1k_tokens=9.0)
    conclusion = conclude(old, new, Limits())
    machines = conclude(old, elsewhere, Limits()).comparison.machines
    return replace(conclusion, comparison=replace(conclusion.comparison, machines=machines))


def test_the_sentences_and_pictures_of_a_comparison(tmp_path):
    worse, same = concluded(20, worse=0.5), concluded(20)
    assert (worse.exit_code, same.exit_code) == (1, 1), "a cell newly fails"
    lines = summary(replace(worse, strict=True), details=True)
    text = "\n".join([*lines, "", *summary(same), ""])
    assert text == Path(__file__).with_name("sentences.txt").read_text("utf-8")
    write(same, tmp_path)
    assert {path.stem for path in (tmp_path / "compare").iterdir()} == {
        "peak_rss_mib", "dev_score", "ms_per_1k_tokens",
        "machines-peak_rss_mib", "machines-ms_per_1k_tokens",
    }, "a picture of each measure that differs, so of no count"  # fmt: skip
    alone = SimpleNamespace(column="step_gflop", label="work", normalised=None)
    row = SimpleNamespace(label="a setting", costs=[alone])
    assert _machine_drawings(SimpleNamespace(rows=[row])) == [], "no full fine-tuning to divide by"


def test_pages_are_short_and_all_is_in_the_json(tmp_path):
    conclusion = concluded(544, worse=0.5)
    page = write(conclusion, tmp_path)
    brief = (tmp_path / "compare.md").read_text("utf-8")
    assert len(brief) < 65_536
    assert len(brief.splitlines()) < 140
    assert "30 of" in brief
    assert all(f"| {text} | regression |" in brief for text in ("time", "dev score"))
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
    assert (measure["verdict"], measure["gates"]) == ("regression", True)
    assert round(measure["change"], 9) == 1.5


def test_the_longest_texts_leave_a_few_rows_of_each_table(tmp_path, monkeypatch, undrawn):
    """And so they do where even the shortest page would be too long."""
    longest = concluded(200, worse=0.5, texts=["|" * 380])
    write(longest, tmp_path)
    brief = (tmp_path / "compare.md").read_text("utf-8")
    assert len(brief) < 65_536
    monkeypatch.setattr(page_of, "_LARGEST", 1)
    assert page_of._brief(longest) == brief
    captions = re.findall(r"(\d+) of [\d,]+ are shown", brief)
    assert captions == ["1", "3", "1"], "changed cells, results, machines"
    tables = re.findall(r"(?:^\|.*\n)+", brief, flags=re.MULTILINE)
    assert min(table.count("\n") for table in tables) > 2, "heads and a row at least"


def test_it_opens_quietly_offline_and_nothing_sticks_out(browser, tmp_path):
    """And no table is cut in a wide window or in print."""
    long = " on all-lin-only, bf16 against dora rank 8 on all-lin-only, frozen weights in bf16"
    path = write(concluded(20, worse=0.5, texts=[long]), tmp_path)
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    cut += ".map(e => [e.ariaLabel, e.scrollWidth])"
    for size in ({"width": 360, "height": 800}, WIDE):
        page = open_quietly(browser, path, size)
        headline, title = page.locator("header .headline"), page.locator("h1")
        assert headline.inner_text() == "15 regressions in 20 settings."
        size_of = "e => parseFloat(getComputedStyle(e).fontSize)"
        assert headline.evaluate(size_of) > title.evaluate(size_of), "the verdict is the headline"
        figures = page.query_selector_all("figure svg")
        assert len(figures) == 7, "a picture for each measure, and two of machines"
        assert all(300 <= svg.bounding_box()["width"] <= size["width"] for svg in figures)
        if size == WIDE:
            assert page.evaluate(cut) == []
            page.set_viewport_size(PAPER)
            page.emulate_media(media="print")
            assert page.evaluate(cut) == []
        page.close()


def test_rows_begin_with_what_is_worse_and_end_with_exact_counts():
    exact = {measure.label for measure in MEASURES if measure.exact}
    conclusion = concluded(68, worse=0.5)
    [table] = _results(conclusion.comparison, 500)
    at = [head.key for head in table.heads].index
    rows = [(row[at("measure")], row[at("verdict")]) for row in table.rows]
    worse = [verdict == "regression" for _, verdict in rows]
    assert worse == sorted(worse, reverse=True)
    assert 0 < sum(worse) == sum(pair is not None for pair, _ in conclusion.comparison.regressions)
    for part in (rows[: sum(worse)], rows[sum(worse) :]):
        counts = [measure in exact for measure, _ in part]
        assert counts == sorted(counts)
    assert max(Counter(rows[sum(worse) :]).values()) == 5, "of one verdict and measure"
    assert f"{len(rows)} of " in table.caption


def test_texts_of_rows_are_no_markup(tmp_path):
    texts = [f" {text} /home/someone/secret/x" for text in TEXTS]
    conclusion = concluded(20, worse=0.5, texts=texts)
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
    conclusion = concluded(12)
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
