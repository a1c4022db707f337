"""A report on many rows, its page in a browser, and planning what is left to run among them."""

import resource
from itertools import islice

import pytest

from bench.plan import gridfile
from bench.plan.planning import Resolved, expand, plan
from bench.report.render import render
from bench.results.store import Store
from tests.bench.synthetic_rows import HERE, as_results, synthetic_rows


def test_report_on_100_000_rows(benchmark, tmp_path, many):
    def read_and_render():
        return render(as_results(Store(many).rows, runs=[many.name]), tmp_path / "reports")

    index = benchmark.pedantic(read_and_render, rounds=1)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    benchmark.extra_info |= {"bytes": index.stat().st_size, "peak_rss_mib": round(peak_mib)}


@pytest.fixture(scope="module")
def explorer(browser, tmp_path_factory):
    """An open page of 400 settings, each with three seeds."""
    rates = [1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3]
    rows = [
        row
        for rate in rates
        for row in synthetic_rows(3 * 68, failures=False, learning_rate=rate)
        if row.mode != "head" or rate == rates[0]
    ]
    index = render(as_results(rows), tmp_path_factory.mktemp("report"))
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(index.as_uri())
    yield page
    page.close()


def test_first_paint_of_400_settings(benchmark, explorer):
    """From the start of navigation until the pictures are drawn, in milliseconds."""

    def load():
        explorer.reload(wait_until="commit")
        explorer.wait_for_function("() => performance.getEntriesByName('explorer-drawn').length")

    benchmark.pedantic(load, rounds=3, warmup_rounds=1)
    benchmark.extra_info |= explorer.evaluate(
        """() => ({
            settings: document.querySelectorAll('#settings-rows tr').length,
            drawn_ms: performance.getEntriesByName('explorer-drawn')[0].startTime,
            first_paint_ms: performance.getEntriesByName('first-contentful-paint')[0].startTime,
        })"""
    )


def test_a_slider_among_400_settings(benchmark, explorer):
    """From a slider's event until the browser has drawn pictures and tables again."""
    move = """step => new Promise(done => {
        const slider = document.getElementById('limit-memory'), start = performance.now();
        slider.value = step;
        slider.dispatchEvent(new Event('input'));
        requestAnimationFrame(() => {
            const channel = new MessageChannel();  // its message comes after the frame is painted
            channel.port1.onmessage = () => done(performance.now() - start);
            channel.port2.postMessage(0);
        });
    })"""
    steps = iter([*range(190, 10, -20)] * 4)
    times = []
    benchmark.pedantic(
        lambda: times.append(explorer.evaluate(move, next(steps))), rounds=30, warmup_rounds=2
    )
    benchmark.extra_info["longest_ms"] = max(times[2:])
    assert min(times) < 100


def test_plan_among_100_000_rows(benchmark, many):
    grid = gridfile.load("full")
    resolved = Resolved("minilm", "7c1d0f9a44be", "mean", "3e9ab01c77d2", "bf16", "grid")

    def read_and_plan():
        return plan(expand(grid, resolved), Store(many).rows, HERE)

    assert len(benchmark.pedantic(read_and_plan, rounds=1)) == 68


@pytest.mark.parametrize("count", [100, 100_000])
def test_append_to_rows(benchmark, tmp_path, many, count):
    """What a cell's parent does with the results before and after it."""
    path = tmp_path / "runs.csv"
    with many.open("rb") as source, path.open("wb") as copy:
        copy.writelines(islice(source, count + 1))
    store = Store(path)
    row = store.rows[0]
    cell = row.cell
    numbers = iter(range(2, 1000))

    def look_and_append():
        last = store.last(str(row["cell_id"]), str(row["conditions_id"]))
        assert last is not None
        assert store.out_of_memory(cell, str(row["conditions_id"])) is not None
        store.append(row | {"attempt": next(numbers)})

    benchmark.pedantic(look_and_append, rounds=20, warmup_rounds=2)
