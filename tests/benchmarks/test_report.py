"""A report on many rows, its page in a browser, and planning what is left to run among them."""

import resource

from bench.plan import gridfile
from bench.plan.planning import Resolved, expand, plan
from bench.report.render import render
from bench.results.store import Store
from tests.bench.synthetic_rows import HERE, as_results, synthetic_rows


def test_report_on_25_000_rows(benchmark, tmp_path, many):
    index = benchmark.pedantic(
        lambda: render(as_results(Store(many).rows, runs=[many.name]), tmp_path), rounds=1
    )
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    benchmark.extra_info |= {"bytes": index.stat().st_size, "peak_rss_mib": round(peak_mib)}


def test_a_slider_among_400_settings(benchmark, browser, tmp_path):
    """From its event until the browser has drawn pictures and tables of three seeds each."""
    rates = [1e-4, 2e-4, 4e-4, 8e-4, 1.6e-3, 3.2e-3]
    rows = [
        row for rate in rates for row in synthetic_rows(204, failures=False, learning_rate=rate)
        if row.mode != "head" or rate == rates[0]
    ]  # fmt: skip
    explorer = browser.new_page(viewport={"width": 1280, "height": 900})
    explorer.goto(render(as_results(rows), tmp_path).as_uri())
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
    steps, times = iter([*range(190, 10, -20)] * 4), []
    benchmark.pedantic(
        lambda: times.append(explorer.evaluate(move, next(steps))), rounds=30, warmup_rounds=2
    )
    benchmark.extra_info["longest_ms"] = max(times[2:])
    explorer.close()
    assert min(times) < 100


def test_plan_among_25_000_rows(benchmark, many):
    grid = gridfile.load("full")
    resolved = Resolved("minilm", "7c1d0f9a44be", "mean", "3e9ab01c77d2", "bf16", "grid")
    planned = benchmark.pedantic(
        lambda: plan(expand(grid, resolved), Store(many).rows, HERE), rounds=1
    )
    assert len(planned) == 68
