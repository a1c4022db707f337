"""The words, pages and JSON of constructed comparisons."""

import json
import random
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle
from pathlib import Path

import markdown

from bench.analysis.comparison import (
    Compared,
    Comparison,
    Family,
    Limits,
    Measure,
    Pair,
    Unmatched,
    Verdict,
    verdict_of,
)
from bench.analysis.machines import MachineCost, MachineRow, Machines
from bench.analysis.setting import settings_of
from bench.compare.conclusion import Conclusion, as_json, summary
from bench.compare.page import _results, write
from bench.compare.sides import SideRows
from bench.results.outcomes import no_values
from bench.stats.intervals import Interval
from tests.bench.browsing import PAPER, WIDE, open_quietly
from tests.bench.synthetic_rows import synthetic_rows
from tests.hostile import TEXTS

MEASURES = (
    Measure("step_gflop", "GFLOP of a step", "count", exact=True),
    Measure("activations_mib", "memory kept for backward", "memory", exact=True),
    Measure("peak_rss_mib", "peak memory", "memory"),
    Measure("dev_score", "dev accuracy", "score"),
    Measure("ms_per_1k_tokens", "time", "time"),
)
LIMITS = (0.02, 0.02, 0.02, 0.005, 0.05)


def result(noise: random.Random, measure: Measure, limit: float, worse: float) -> Compared:
    """A measure with an interval around a shift, and the verdict that follows."""
    half = 0.0 if measure.exact else noise.choice((0.01, 0.03, 0.06))
    shift = 0.0 if measure.exact else noise.gauss(0, half / 2)
    shift += worse
    is_score = measure.kind == "score"
    if is_score:
        shift, half = shift / 5, half / 5
    value = -shift if is_score else 1 + shift
    verdict, significant = verdict_of(shift - half, shift + half, limit)
    undecided = verdict is Verdict.UNDECIDED
    return Compared(
        measure, Interval(value, value - half, value + half), verdict, limit, gates=True,
        runs=(2, 2), significant=significant, may_be_worse=shift + half > limit,
        needed=noise.randint(3, 30) if undecided else None,
        why="one training each" if undecided and is_score else "",
        base=0.5 if is_score else 812.5, new=0.49 if is_score else 840.1,
    )  # fmt: skip


def constructed(number: int = 68, worse: float = 0.0, texts: Sequence[str] = ("",)) -> Conclusion:
    """A comparison of some settings, of which each tenth is worse.

    Args:
        texts: each added to the texts of some settings, and all to the rest.
    """
    noise = random.Random(1)  # noqa: S311
    rows = synthetic_rows(number, failures=False)
    settings = [
        setting for start in range(0, number, 68)
        for setting in settings_of(rows[start : start + 68], [], no_values)
    ]  # fmt: skip
    pairs = tuple(
        Pair(
            f"{setting.label}{text}", setting, setting, "Xeon",
            tuple(
                result(noise, measure, limit, worse if place % 10 == 3 else 0.0)
                for measure, limit in zip(MEASURES, LIMITS, strict=True)
            ),
            failing=f"ok, then oom in 2 of 3 runs: no memory{text}" if place % 15 == 5 else "",
            passing=f"crashed, then ok{text}" if place % 15 == 6 else "",
        )
        for place, (setting, text) in enumerate(zip(settings, cycle(texts), strict=False))
    )  # fmt: skip
    overall = tuple(result(noise, *each, 0.0) for each in zip(MEASURES, LIMITS, strict=True))
    ratios = [0.9 + noise.gauss(0, 0.1) for _ in pairs]
    machines = Machines(
        f"Xeon, 2 cores{texts[0]}", f"EPYC, 64 cores{texts[-1]}",
        tuple(
            MachineRow(pair.label, (
                MachineCost("peak_rss_mib", "memory", Interval(1.1, 1.0, 1.2), None),
                MachineCost("ms_per_1k_tokens", "time", Interval(0.5, 0.4, 0.6),
                            Interval(ratio, ratio - 0.1, ratio + 0.1)),
            ))
            for pair, ratio in zip(pairs, ratios, strict=True)
        ),
        why=f"no full fine-tuning{texts[0]}", family="All intervals hold at once.",
    )  # fmt: skip
    comparison = Comparison(
        pairs=pairs, overall=overall,
        unmatched=tuple(Unmatched("NEW", f"dora{text}", f"only in NEW{text}", 3) for text in texts),
        differs=tuple(("code_version", f"1{text}", f"2{text}") for text in texts),
        machines=machines,
        family=Family(number=100, level=0.999, measures=5, overall_level=0.99),
    )  # fmt: skip
    sides = [
        SideRows(Path(f"{place}{texts[0]}.csv"), f"amp=off{texts[-1]}", rows, no_values)
        for place in ("before", "after")
    ]
    return Conclusion(comparison, *sides, Limits())


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
    path = write(constructed(20, worse=0.5, texts=[long]), tmp_path)
    cut = "[...document.querySelectorAll('.scroll')].filter(e => e.scrollWidth > e.clientWidth)"
    cut += ".map(e => [e.ariaLabel, e.scrollWidth])"
    for size in ({"width": 360, "height": 800}, WIDE):
        page = open_quietly(browser, path, size)
        headline, title = page.locator("header .headline"), page.locator("h1")
        assert headline.inner_text() == "11 regressions in 20 settings."
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
