"""The report and its explorer in a real browser, from disk, with and without JavaScript."""

import csv
import random
import re
import time
from dataclasses import replace
from itertools import starmap
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest

from bench.analysis.costs import NEEDS, parse_where
from bench.analysis.recommendation import candidates_of, recommend
from bench.report.explorer import explorer
from bench.report.pages import Facts, html
from bench.report.recommendation import against_full, in_brief
from bench.report.render import render
from bench.report.text import signed
from bench.results.predictions import kept_predictions, values_from
from tests.bench.analysis.test_recommendation import HEAD, SMALL, group_of
from tests.bench.browsing import PAPER, PHONE, WIDE, open_page, open_quietly, violations
from tests.bench.synthetic_rows import as_results, synthetic_rows
from tests.reference_run import RUNS, reference_group, reference_rows


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    results = as_results(reference_rows(), ["runs.csv"], predictions_of=kept_predictions(RUNS))
    return render(results, tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def candidates():
    return candidates_of(reference_group(values_from(kept_predictions(RUNS))))


@pytest.fixture(scope="module")
def shared_page(browser, index):
    page = open_page(browser, index, WIDE)
    yield page
    assert page.complaints == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()


def test_it_is_accessible_and_in_print_has_at_most_ten_pages_of_which_nothing_is_cut(
    browser, index
):
    page = open_page(browser, index, PAPER)
    page.emulate_media(media="print")
    texts = "[...document.querySelectorAll('table, svg, p')].filter(e => e.checkVisibility())"
    ends = page.evaluate(f"{texts}.map(e => e.getBoundingClientRect().right)")
    assert 600 < max(ends) <= PAPER["width"]
    assert page.locator("#cell-grid").is_hidden()
    assert page.locator(".printed").inner_text().endswith("their rows are in runs.csv.")
    assert 5 <= len(re.findall(rb"/Type ?/Page\b", page.pdf(format="A4"))) <= 10
    page.emulate_media(media="screen")
    page.set_viewport_size(WIDE)
    assert violations(page, "dark") == []
    page.evaluate("document.querySelectorAll('details').forEach(e => { e.open = true })")
    assert violations(page, "light") == []
    page.close()


@pytest.fixture
def page(shared_page):
    """The page, unfiltered."""
    go(shared_page, f"again={time.monotonic_ns()}")
    return shared_page


def go(page, hash_):
    """Open another address of the page."""
    page.evaluate(
        """hash => new Promise(done => {
            addEventListener('hashchange', () => done(), { once: true });
            location.hash = hash;
        })""",
        hash_,
    )


def limit_text(name, value):
    """A limit as --where has it."""
    unit = {"memory": "MiB", "time": "s", "size": "MB"}.get(name, "")
    return f"{name}{'>=' if name == 'score' else '<='}{value}{unit}"


def type_limit(page, name, value):
    page.fill(f"#limit-{name}-value", value)


def verdicts(page):
    """The settings left in the table, with their verdicts."""
    return page.evaluate(
        """() => Object.fromEntries(
            [...document.querySelectorAll('#settings-rows tr:not([hidden])')].map(row => [
                row.querySelector('button').textContent, row.lastChild.textContent]))"""
    )


def drawn(page):
    """The number of points in the first picture that are not dimmed."""
    return page.locator("#charts figure:first-child [aria-label=dot] path:not(.out)").count()


def test_the_rule_on_the_page_is_that_of_python(page, candidates):
    """A limit on memory that some settings are not known to meet stands for filters in Python."""
    chance, settings = random.Random(17), candidates.settings  # noqa: S311
    decided = set()
    for _ in range(20):
        limits = {"memory": "1e9"}
        for name in NEEDS:
            if chance.random() < 0.3:
                limits[name] = f"{chance.choice(candidates.costs[name]) * 1.0001:.6g}"
        if chance.random() < 0.5:
            limits["score"] = f"{chance.uniform(0.48, 0.62):.3f}"
        modes = chance.choice([(), (), ("lora",), ("lora", "dora"), ("head", "full"), ("dora",)])
        amps = chance.choice([(), (), ("off",), ("bf16",)])
        prefer, where = chance.choice(NEEDS), " ".join(starmap(limit_text, limits.items()))
        query = [*limits.items(), ("prefer", prefer), *(("is.mode", mode) for mode in modes)]
        go(page, urlencode([*query, *(("is.AMP", amp) for amp in amps)]))
        kept = [(not modes or s.mode in modes) and (not amps or s.amp in amps) for s in settings]
        narrowed = replace(candidates)
        memory = np.where(kept, candidates.costs["memory"], np.nan)
        narrowed.__dict__["costs"] = {**candidates.costs, "memory": memory}
        wanted = recommend(narrowed, prefer, parse_where(where))
        of_pick = "recommended" if wanted.decided else "best by score so far"
        expected = {
            settings[i].label: of_pick if i == wanted.pick
            else "shown no worse" if i in wanted.shown
            else "could be no worse" if i in wanted.could_be else "shown worse"
            for i in wanted.among
        }  # fmt: skip
        assert verdicts(page) == expected, where
        answer, more = page.locator(".answer p").all_inner_texts()
        if wanted.pick is not None:
            label = settings[wanted.pick].label
            assert answer.endswith(f"{label}: {in_brief(candidates, wanted.pick)}.")
            assert more.endswith(against_full(candidates, wanted.pick))
        elif any(kept):
            assert answer.startswith("No setting meets the limits: the least memory is ")
        decided.add(wanted.decided)
    assert decided == {True, False}


def test_a_slider_moves_picture_table_text_and_command(page, candidates):
    assert page.inner_text("#answer") == "All 69 settings: the advice above holds."
    assert len(verdicts(page)) == drawn(page) == len(candidates.settings)
    page.locator("#limit-memory").focus()
    page.keyboard.press("End")
    field = page.locator("#limit-memory-value")
    assert field.input_value() == ""
    for _ in range(3):
        page.keyboard.press("PageDown")
    where = limit_text("memory", field.input_value())
    assert parse_where(where)[0].name == "memory"
    assert page.inner_text("#command") == (
        f'python -m bench.recommend --runs runs.csv --where "{where}"'
    )
    left = len(verdicts(page))
    assert 0 < left == drawn(page) < 69
    assert page.inner_text("#count").lower() == f"{left} of 69 settings"
    type_limit(page, "score", "0.6")
    type_limit(page, "memory", "1500")
    assert int(page.input_value("#limit-score")) > 0
    assert drawn(page) == len(verdicts(page)) < 69
    assert page.locator("#limit-memory").get_attribute("aria-valuetext") == "1,500 MiB"
    type_limit(page, "score", "")
    type_limit(page, "parameters", "1e5")
    assert page.inner_text("#command").endswith('--where "memory<=1500MiB parameters<=1e5"')
    type_limit(page, "parameters", "")
    for value, is_invalid in (("-5", "true"), ("1300", "false")):
        type_limit(page, "memory", value)
        assert field.get_attribute("aria-invalid") == is_invalid
        assert (len(verdicts(page)) == 69) == (is_invalid == "true"), "it limits nothing"


def test_only_what_lasts_is_announced(page):
    page.wait_for_timeout(800)
    page.evaluate(
        """() => {
            spoken = [];
            new MutationObserver(() => spoken.push(document.getElementById("status").textContent))
                .observe(document.getElementById("status"), { childList: true });
        }"""
    )
    page.locator("#limit-memory-value").press_sequentially("1300")
    page.wait_for_function("() => spoken.length")
    assert page.evaluate("spoken") == [page.inner_text("#answer")]
    assert page.locator("#explorer [role=status]").count() == 1
    assert page.locator("#explorer [aria-live]").count() == 0


def test_each_step_of_a_slider_leaves_other_settings_and_names_are_relative(index, candidates):
    content: Any = explorer(recommend(candidates))
    assert [one["name"] for one in content["limits"]] == [*NEEDS, "score"]
    for one in content["limits"]:
        limits = (parse_where(limit_text(one["name"], value)) for value in one["values"])
        sizes = [len(recommend(candidates, "memory", limit).among) for limit in limits]
        sizes = sizes if one["at_most"] else sizes[::-1]
        assert sizes[0] > 0
        assert sizes == sorted({*sizes})
        assert sizes[-1] == len(candidates.settings)
    assert index.stat().st_size < 2_000_000
    assert str(Path(__file__).parents[3]) not in str(content)
    assert all(made["cells"][0][7].startswith("runs/") for made in content["settings"])


def test_filters_act_on_the_table_of_cells(page):
    total = page.evaluate("cellGrid.getDataCount()")
    is_dora = "row => row.getData().keys.mode === 'dora'"
    for checked in (True, False):
        if checked:
            page.get_by_role("checkbox", name="dora").check()
        else:
            page.get_by_role("button", name="Reset").click()
        # the table follows a moment later, maybe that of the test before too
        page.wait_for_function(
            f"checked => cellGrid.getRows('active').every({is_dora}) === checked", arg=checked
        )
        left = page.evaluate("cellGrid.getDataCount('active')")
        heading = f"{left} of {total} cells left" if checked else "Every cell"
        page.locator("#cells h2", has_text=heading).wait_for()
        assert all(label.startswith("dora") for label in verdicts(page)) == checked


def test_two_pins_are_compared_and_are_in_the_address(page, candidates):
    labels = ["full, fp32", "lora rank 8 on all-lin-only, fp32"]
    for label in labels:
        page.get_by_role("button", name=label, exact=True).focus()
        page.keyboard.press("Enter")
    a, b = (next(s for s in candidates.settings if s.label == label) for label in labels)
    text = page.inner_text("#pins")
    assert all(label in text for label in labels)
    assert f"runs/{b.rows[0].name}-{b.rows[0].cell_id}" in page.locator("#pins").text_content()
    assert "python -m bench.grid --grid full" in text
    assert "mode=lora rank=8 layers=all-lin-only" in text
    compared = page.locator(".compare").inner_text()
    for cost in ("peak_rss_mib", "train_s"):  # over the seeds that both have: here one
        of_a, of_b = a.by_run(cost), b.by_run(cost)
        [seed] = of_a.keys() & of_b.keys()
        assert f"{of_b[seed] / of_a[seed]:.2f}×" in compared
    i, j = (candidates.settings.index(s) for s in (b, a))
    claim = "is at most" if candidates.shown[i, j] else "may be more than"
    if candidates.worse[i, j]:
        claim = "is more than"
    assert f"B {claim} 2 points of accuracy worse than A." in compared
    ends = candidates.comparison.lower[i, j], candidates.comparison.upper[i, j]
    bounds = " to ".join(signed(end) for end in ends)
    assert f"{signed(candidates.comparison.difference[i, j])} ({bounds})" in compared
    page.select_option("#prefer", "time")
    type_limit(page, "time", "60")
    page.get_by_role("checkbox", name="lora").check()
    page.wait_for_function("() => location.hash.includes('is.mode=lora')")
    before = verdicts(page), page.inner_text("#answer"), page.inner_text("#pins")
    query = page.evaluate("location.hash.slice(1)")
    go(page, "none=")
    assert page.locator("#pinned").is_hidden()
    go(page, query)
    assert (verdicts(page), page.inner_text("#answer"), page.inner_text("#pins")) == before
    assert page.input_value("#prefer") == "time"
    go(page, "none=")
    alike = candidates.shown & candidates.shown.T & ~np.eye(len(candidates.settings), dtype=bool)
    for i in np.argwhere(alike)[0]:
        page.get_by_role("button", name=candidates.settings[i].label, exact=True).click()
    assert "Neither is worse than the other by more than 2 points" in page.inner_text(".compare")


def test_a_row_stays_in_place_and_focus_is_kept(page):
    def top():
        return float(row.bounding_box()["y"])

    row = page.get_by_role("button", name="full, bf16", exact=True)
    row.scroll_into_view_if_needed()
    for _ in range(2):
        before = top()
        row.click()
        page.wait_for_timeout(50)
        assert abs(top() - before) < 1
    row.click()
    page.get_by_role("button", name="full, fp32", exact=True).click()
    page.locator(".close").first.click()
    assert page.evaluate("document.activeElement.ariaLabel") == "Unpin full, fp32"
    page.locator(".close").first.click()
    assert page.evaluate("document.activeElement.textContent") == "full, fp32"


def test_a_command_is_copied_without_a_clipboard_too(page):
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }")
    button = page.locator("#copy")
    for _ in range(2):
        button.click()
        page.wait_for_function("() => document.getElementById('copy').textContent === 'Copied'")
    assert page.evaluate("document.activeElement.id") == "copy"
    page.wait_for_function("() => document.getElementById('copy').textContent === 'Copy'")


def test_a_link_inside_keeps_the_state_in_the_address_which_opens_at_the_explorer(
    browser, index, page
):
    type_limit(page, "time", "60")
    page.wait_for_function("() => location.hash.includes('time=60')")
    page.locator("nav a[href='#cells']").click()
    page.wait_for_function("() => location.hash.includes('time=60')")
    page.wait_for_function("() => Math.abs(cells.getBoundingClientRect().top) < 100")
    assert page.input_value("#limit-time-value") == "60"
    assert not page.locator("#terms").evaluate("e => e.open")
    go(page, "terms")
    assert page.locator("#terms dl").is_visible()
    page = browser.new_page(viewport=WIDE)
    page.goto(index.as_uri() + "#memory=1240")
    page.wait_for_function(
        "() => document.getElementById('explorer').getBoundingClientRect().top < 100"
    )
    page.set_viewport_size({"width": 1280, "height": 800})
    assert page.locator(".controls").evaluate("e => e.scrollHeight <= e.clientHeight")
    page.close()


def test_a_click_on_a_point_pins_it(page):
    point = page.locator("#charts figure:first-child [aria-label=dot] path").first
    point.scroll_into_view_if_needed()
    point = point.bounding_box()
    x, y = point["x"] + point["width"] / 2, point["y"] + point["height"] / 2
    page.mouse.move(x, y)
    tip = page.locator("#charts figure:first-child [aria-label=tip]")
    assert "dev accuracy" in tip.text_content()
    page.mouse.click(x, y)
    assert page.locator("article.pin").count() == 1


def test_the_csv_has_the_settings_that_are_left(page):
    type_limit(page, "memory", "1300")
    page.get_by_role("button", name="time", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download CSV").click()
    with Path(download.value.path()).open(encoding="utf-8-sig", newline="") as file:
        rows = [*csv.DictReader(file)]
    left = verdicts(page)
    assert {row["setting"]: row["verdict"] for row in rows} == left
    assert [row["setting"] for row in rows] == list(left)
    times = [float(row["time_s"]) for row in rows]
    assert times == sorted(times)
    assert all(len(row["accuracy_from"]) <= len("0.123456") for row in rows)
    page.get_by_role("button", name="setting", exact=True).click()


@pytest.mark.parametrize("width", [360, 1280])
def test_nothing_sticks_out(page, width):
    page.set_viewport_size({"width": width, "height": 900})
    page.get_by_role("button", name="full, fp32", exact=True).click()
    page.wait_for_timeout(100)
    assert page.evaluate("document.documentElement.scrollWidth") == width
    nav = page.locator("nav").bounding_box()
    assert all(link["x"] + link["width"] <= width for link in
               (link.bounding_box() for link in page.locator("nav a").all()))  # fmt: skip
    assert nav["height"] < 120
    page.set_viewport_size(WIDE)


def test_a_page_says_why_nothing_is_recommended_and_does_not_explore_one_setting(browser, tmp_path):
    rows = [
        replace(row, dev_score=0.45) if (row.mode, row.seed) == ("lora", 1) else row
        for row in group_of({HEAD: 0.3, SMALL: 0.6}).rows
    ]
    page = open_page(browser, render(as_results(rows), tmp_path), WIDE)
    go(page, urlencode([("score", "0.2")]))
    answer, more = page.locator(".answer p").all_inner_texts()
    assert answer.startswith("Not decided; the best by score so far is lora rank 1 on attn-only")
    assert more.startswith("lora rank 1 on attn-only, fp32 is withdrawn: of its 3 trainings, seed")
    rows = [row | {"init": "random", "dev_score": None} for row in synthetic_rows(10)]
    page.goto(render(as_results(rows), tmp_path / "unscored").as_uri())
    assert page.inner_text("#answer") in page.inner_text("#advice")
    assert page.locator("#prefer").is_hidden()
    page.goto(render(as_results(rows[:1]), tmp_path / "one").as_uri())
    assert page.locator("#explorer").count() == 0
    assert page.complaints == []
    page.close()


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    other = [
        row | {"conditions_id": "other", "machine": "EPYC, 64 cores",
               "finished_at": "2025-01-01T00:00:00Z"} for row in synthetic_rows(20)
    ]  # fmt: skip
    return render(as_results([*synthetic_rows(68), *other]), tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("kind", ["index", "page"])
def test_a_script_that_was_put_into_a_page_does_not_run(browser, synthetic, tmp_path, kind):
    facts = Facts(title="t", findings=["f"], sections=[], notes=[], command="python -m bench.data")
    text = synthetic.read_text("utf-8") if kind == "index" else html(facts)
    bad = "<script>window.pwned = 1</script><img src='x' onerror='window.pwned = 1'>"
    (tmp_path / "page.html").write_text(text.replace("</h1>", f"</h1>{bad}"), "utf-8")
    page = open_page(browser, tmp_path / "page.html", WIDE)
    if kind == "index":
        page.wait_for_selector("#charts svg")
    assert page.evaluate("window.pwned") is None
    assert sum("Content Security Policy" in line for line in page.complaints) >= 2
    page.close()


def test_figures_are_readable_on_a_phone_and_in_the_dark_and_cells_sort_by_number(
    browser, synthetic
):
    page = open_quietly(browser, synthetic, PHONE)
    for svg in page.query_selector_all("main > section figure svg"):
        assert 300 <= svg.bounding_box()["width"] <= PHONE["width"]
        heights = "s => [...s.querySelectorAll('text')].map(t => t.getBoundingClientRect().height)"
        assert min(svg.evaluate(heights)) >= 8
    page.set_viewport_size(WIDE)
    heading = page.locator("#cell-grid .tabulator-col", has_text="RSS, MiB").first
    heading.locator(".tabulator-col-sorter").click()
    texts = page.evaluate(
        """() => {
        const columns = cellGrid.getColumns();
        const at = columns.findIndex(c => c.getDefinition().title === "RSS, MiB");
        return cellGrid.getRows("active").map(row => row.getData()["text_" + at]);
    }"""
    )
    numbers = [float(text.replace(",", "")) for text in texts if text != "not measured"]
    assert numbers == sorted(numbers)
    assert numbers[0] < 1000 <= numbers[-1], "what text would sort otherwise"
    assert {*texts[len(numbers) :]} == {"not measured"}
    assert page.complaints == []
    stroke = "getComputedStyle(document.querySelectorAll('#legend path')[2]).stroke"
    usual = page.evaluate(stroke)
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(stroke) != usual
    ink, paper = (
        sum(map(int, re.findall(r"\d+", page.evaluate(f"getComputedStyle({colour}")))) / 765
        for colour in ("document.querySelector('figure svg text')).fill",
                       "document.body).backgroundColor")
    )  # fmt: skip
    assert ink - paper > 0.6
    page.close()


def test_without_javascript_advice_pictures_and_every_cell_are_there(browser, synthetic):
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(synthetic.as_uri())
    assert page.locator("#advice h2").is_visible()
    assert page.locator("#tradeoff figure svg").count() == 2
    for without in ("#explorer", "nav a[href='#explorer']", "#cells-hint"):
        assert page.locator(without).is_hidden()
    assert page.locator("#cell-table tbody tr").count() == 88
    assert page.locator("#cell-table tbody tr").first.is_visible()
    context.close()
