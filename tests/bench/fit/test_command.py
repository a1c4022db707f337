"""`python -m bench.fit`: answers, what they are based on, pages, and bad input."""

import json
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import click
import pytest

from bench.common.errors import InputError
from bench.fit import __main__ as module
from bench.fit import answers
from bench.fit.__main__ import _lengths, _memory, command
from bench.fit.verify import Verified
from bench.forecast.costs import Formulae, Variant
from bench.report.forecasts import lengths_section
from bench.results.curves import CURVES, curves_key
from minbert.assets.cache import cache_folder
from tests.bench.browsing import PHONE, WIDE, open_quietly
from tests.bench.synthetic_rows import cell, new_row
from tests.experiments import equal_memory

TINY = ("--model", "bert-tiny", "--init", "random", "--task", "movies", "--for", "cpu")
SOME = ("--select", "mode=full,lora amp=off")
MOMENTS = [[[50, 0, 0], [0, 0, 0], [0, 0, 0]], [[0, 0, 0], [0, 1, 0.5], [0, 0, 0.1]]]
FORMULAE = Formulae(100, 200, [(0, 0), (1, 0), (1, 1)], MOMENTS, 10, [0, 0, 1], [0, 0, 2], 300)
FULL = cell("full", None, None, "off")
LORA = cell("lora", 8, "attn-only", "off")
LITTLE = FORMULAE._replace(optimizer_mib=2.0)


def costs(device="cpu", rows=(), threads=2):
    formulae = {FULL: FORMULAE, LORA: LITTLE}
    return answers.Costs(formulae=formulae, device=device, threads=threads, rows=rows)


@pytest.fixture(scope="module", autouse=True)
def own_cache(minilm, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINBERT_ASSETS", os.environ.get("MINBERT_ASSETS", str(cache_folder())))
        patch.setenv("MINBERT_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("MINBERT_BENCH_LOCKS", str(tmp_path_factory.mktemp("locks")))
        yield


@pytest.fixture
def jobs(monkeypatch):
    """The jobs whose formulae were asked for, which are made up."""
    asked = {}

    def formulae(jobs, *_):
        asked.update(jobs)
        return dict.fromkeys(jobs, FORMULAE)

    monkeypatch.setattr(module, "find_formulae", formulae)
    return asked


def run(*words):
    return command.main([*map(str, words)], standalone_mode=False)


def ask(capsys, *words):
    code = run(*TINY, "--memory", "2GiB", "--runs", "none.csv", *SOME, "--json", *words)
    out, err = capsys.readouterr()
    return code, json.loads(out), err


def test_a_process_counts_and_the_answer_is_the_largest_batch_that_fits(capsys):
    """Real tensors' shapes, by a process of its own; the second time none is needed."""
    code, answer, err = ask(capsys, "--length", "16,128")
    assert code == 0
    assert "predicting memory and time of" in err
    assert (answer["model"], answer["device"], answer["limit_mib"]) == ("bert-tiny", "cpu", 2048)
    found = {(one["setting"], one["length"]): one for one in answer["answers"]}
    full, lora = found["full-fp32", 128], found["lora-r8-attn-only-fp32", 128]
    assert 1 < full["batch"] < lora["batch"] < found["lora-r8-attn-only-fp32", 16]["batch"]
    assert lora["times_full"] == pytest.approx(lora["batch"] / full["batch"])
    for one in answer["answers"]:
        owners = one["memory_mib"]
        assert sum(owners.values()) == pytest.approx(one["peak_mib"])
        assert 2048 * 0.99 < 1.2 * one["peak_mib"] <= 2048, "a text more takes under a hundredth"
    assert full["memory_mib"]["optimizer"] > 30 * lora["memory_mib"]["optimizer"]
    assert any(note.startswith("error of the forecast:") for note in answer["notes"])

    again, other, err = ask(capsys, "--length", "16,128")
    assert (again, other) == (0, answer)
    assert "predicting" not in err


def test_batches_of_ones_own_come_after_the_largest_that_fits(capsys, monkeypatch, jobs):
    _, answer, _ = ask(capsys, "--length", "16,128", "--batch", "60000,4")
    every = answer["answers"]
    for largest, *others in zip(every[::3], every[1::3], every[2::3], strict=True):
        assert [one["batch"] for one in others] == [4, 60_000]
        for one in others:
            assert (one["setting"], one["length"]) == (largest["setting"], largest["length"])
    largest, small, beyond = every[-3:]
    assert small["peak_mib"] < largest["peak_mib"] < 2048 < beyond["peak_mib"]
    assert small["times_full"] is None
    tried = []
    kept = Verified(
        model="bert-tiny", setting="full-fp32", length=16, limit_mib=2048, promised=1, by="peaks",
        fits=1,
    )  # fmt: skip
    monkeypatch.setattr(module, "verified", lambda _, one, *__: tried.append(one.batch) or kept)
    ask(capsys, "--length", "16", "--batch", "4", "--verify")
    assert tried == [one["batch"] for one in every[::3] if one["length"] == 16]


def test_pages_and_the_report_show_the_same_curves(capsys, tmp_path, undrawn):
    runs = tmp_path / "runs.csv"
    runs.write_text("")
    words = (*TINY, "--memory", "2GiB", "--length", "64", *SOME, "--reports", tmp_path / "out")
    assert run(*words, "--runs", runs) == 0
    out = capsys.readouterr().out
    assert "bert-tiny on the CPU, in 2,048 MiB" in out
    assert "lora-r8-attn-only-fp32" in out
    page = (tmp_path / "out" / "fit.md").read_text()
    assert "at 16 tokens lora-r8-attn-only-fp32 saves" in page
    [(key, curves)] = CURVES.read(runs).items()
    assert key.endswith(" cpu")
    assert curves_key("abc", "cuda:1") == "abc cuda"
    lengths = [p.length for p in curves.points if p.batch == 64 and p.mode == "full"]
    assert lengths == [16, 32, 64, 128, 256, 512]
    data = json.loads((tmp_path / "out" / "fit.json").read_text())
    assert data["points"] == curves.model_dump(mode="json")["points"]
    assert lengths_section(curves)[0].heading == "Memory and time by length and batch"
    assert lengths_section(None) == []


def test_the_page_opens_quietly_and_nothing_sticks_out(tmp_path, browser):
    (runs := tmp_path / "runs.csv").write_text("")
    words = (*TINY, "--memory", "2GiB", "--length", "16", *SOME, "--reports", tmp_path)
    assert run(*words, "--runs", runs) == 0
    for size in (WIDE, PHONE):
        open_quietly(browser, tmp_path / "fit.html", size).close()


@pytest.mark.parametrize(("words", "line"), [
    (["--memory", "250MiB"], r"250MiB: even one text of 16 tokens in .* takes \d{3} MiB "
                             r"\(\d+ libraries, "),
    (["--length", "1024"], "--length 1024: bert-tiny takes 3 to 512 tokens"),
    (["--batch", "16,0"], "--batch 0: a batch has 1 to 65,536 texts"),
    (["--length", "2"], "--length 2: bert-tiny takes 3 to 512 tokens"),
    (["--select", "rank=99"], "--select: no setting has rank=99"),
    (["--model", "bert-tiny,bert-mini"], "there is no|give --model one|no folder here"),
    (["--for", "cuda", "--verify"], "--verify trains on the GPU, and none is here"),
])  # fmt: skip
def test_bad_input_is_one_line_with_what_would_do(words, line, capsys):
    with pytest.raises(InputError, match=line) as error:
        run(*TINY, "--memory", "2GiB", "--runs", "none.csv", "--length", "16", *SOME, *words)
    assert "\n" not in str(error.value)
    assert capsys.readouterr().out == ""


def test_a_gpu_that_is_not_here_needs_its_memory_and_is_assumed_by_name(capsys, jobs, monkeypatch):
    monkeypatch.setattr(module, "available_mib", lambda: (123.0, "left by a control group"))
    assert module._own_mib(module.find_conditions("cpu"), True) == 123
    with pytest.raises(InputError, match="--for cuda: say with --memory how much the GPU has"):
        run(*TINY, "--for", "cuda")
    words = ("--length", "512", "--runs", "none.csv", "--json")
    assert run(*TINY, "--for", "cuda", "--memory", "16GiB", "--select", "amp=fp16", *words) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {job.device for cell, job in jobs.items() if cell.amp == "fp16"} == {"cuda:0"}
    owners = answer["answers"][0]["memory_mib"]
    assert {"context", "workspaces", "reserve"} < owners.keys()
    assert "libraries" not in owners
    unknown, assumed, _ = answer["notes"]
    assert "no batch was verified on a GPU yet" in unknown
    assert assumed.startswith("assumed of the GPU: its context takes 550 MiB")


@pytest.mark.parametrize("text", ["8GX", "8", "-3GiB", "GiB", "0MiB", "1e999GiB", "8 GiB 2"])
def test_sizes_with_a_unit_that_is_known_and_lengths_are_read(text):
    with pytest.raises(click.BadParameter, match="give one in B, kB, MB, GB, KiB, MiB, GiB: 8GiB"):
        _memory(text)
    assert (_memory("8GiB"), _memory("1.5 GiB"), _memory("512MiB")) == (8192, 1536, 512)
    assert _lengths("512,32,32") == [32, 512]
    with pytest.raises(click.BadParameter, match="give whole numbers"):
        _lengths("32,x")


def test_memory_is_learned_from_the_newest_settings(monkeypatch, capsys, tmp_path, jobs):
    """Rows of the same data under the same conditions: more than forecast leaves room for less."""
    words = ("--length", "128", "--select", "mode=lora amp=off", "--memory", "16GiB")
    _, before, _ = ask(capsys, *words)

    points = {"one": 3 * before["answers"][0]["peak_mib"]}
    made = SimpleNamespace(coefficients=(0.0, 0.0, 3.0, 3.0, 3.0, 3.0), points=points)

    def forecast(cells, rows, *_):
        assert [cell.rank for cell in cells] == [4, 5, 6, 7, 1]
        assert [row.status for row in rows] == ["ok"] * 5
        return SimpleNamespace(memory=made)

    monkeypatch.setattr(module, "make_forecast", forecast)
    here = module.find_conditions("cpu").conditions.columns()
    lora = replace(next(c for c in jobs if c.mode == "lora"), batch_size=64)
    rows = [
        new_row(**replace(lora, rank=rank).columns(), **here, status="ok")
        for rank in (1, 2, 3, 4, 5, 6, 7, 1)
    ]
    others = ({"status": "oom"}, {"data_digest": "other"}, {"compile": "on"})
    rows += [rows[0] | {"rank": 16} | changes for changes in others]
    monkeypatch.setattr(module, "read_rows", lambda _: rows)
    runs = tmp_path / "runs.csv"
    runs.write_text("")
    _, after, _ = ask(capsys, *words, "--runs", runs)
    assert after["notes"][1] == "memory: fitted on 1 setting that trained here"
    parts = after["answers"][0]["memory_mib"]
    of_tensors = after["answers"][0]["peak_mib"] - parts["libraries"]
    lasting = parts["weights"] + parts["optimizer"] + parts["gradients"] + parts["activations"]
    assert of_tensors > 2.4 * lasting


@pytest.mark.parametrize("plain", [("lora",), ()])
def test_pages_without_full_fine_tuning_are_refused_first(tmp_path, monkeypatch, jobs, plain):
    monkeypatch.setattr(module, "verified", lambda *_: pytest.fail("trained"))
    monkeypatch.setattr(module, "is_plain", lambda c: c.mode in plain)
    words = (*TINY, "--memory", "2GiB", "--length", "16", *SOME, "--verify", "--reports", tmp_path)
    with pytest.raises(InputError, match="--reports: the grid has no full fine-tuning"):
        run(*words, "--runs", "none.csv")


def test_settings_that_differ_in_seeds_and_rates_alone_are_answered_once(capsys, jobs, tmp_path):
    grid, cells = tmp_path / "rates.toml", 'mode = ["full"]\nlearning_rate = [1e-3, 1e-4]\n'
    grid.write_text(f'about = "two rates"\n[settings]\nseeds = 3\n[[cells]]\n{cells}')
    _, answer, _ = ask(capsys, "--grid", grid, "--length", "16,32")
    assert len(answer["answers"]) == 2
    assert len(jobs) == 1


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
@pytest.mark.parametrize("length", [16, 128])
def test_the_largest_batch_fits_and_one_more_does_not(device, length):
    of, before, spare = costs(device), 0, 1.2 if device == "cpu" else 1.0
    for limit in (1000, 1500, 2000, 4000, 8000):
        batch = of.largest(FULL, length, limit)
        fits, fits_not = (spare * of.point(FULL, n, length).peak_mib for n in (batch, batch + 1))
        assert fits <= limit < fits_not
        assert batch > before, "more memory, more texts"
        before = batch
    assert of.largest(FULL, length, 300) == 0
    assert of.largest(FULL, length, 1e12) == 65_536


def test_memory_by_owner_is_the_forecast_of_a_cell_with_the_same_counts():
    point = costs().point(FULL, 10, 100)
    passing = 10 + 500 + 100
    assert point.peak_mib == pytest.approx(300 + 75 + 1.2 * 300 + 1.12 * passing)
    again = replace(FULL, gradient_checkpointing="on")
    with_it = replace(costs(), formulae={again: FORMULAE}).point(again, 10, 100)
    assert with_it.peak_mib == pytest.approx(point.peak_mib + 0.5 * passing)
    assert (point.memory_mib["activations"], point.memory_mib["gradients"]) == (510, 0)
    assert costs().point(FULL, 1, 1).memory_mib["gradients"] == 50
    on_gpu = costs("cuda:0").point(FULL, 10, 100)
    assert on_gpu.peak_mib == pytest.approx(910 * 1.1 + 550 + 32), "never tensors alone"
    for most in (0.0, 0.5, -1.0):  # less was measured than is counted
        point = replace(costs(), coefficients=(0.0, 0.0, most, most, most, most)).point(
            FULL, 10, 100
        )
        assert min(point.memory_mib.values()) >= 0
        assert point.peak_mib == pytest.approx(300 + max(0, most) * 910)


def test_times_are_carried_over_from_rows_of_the_same_setting():
    usual = costs().point(FULL, 64, 32).ms_per_1k_tokens
    assert usual < costs().point(FULL, 1, 32).ms_per_1k_tokens, "a batch shares operators"
    like = {**replace(FULL, batch_size=16, max_length=128).columns(), "status": "ok"}
    slow = costs().point(FULL, 16, 20).ms_per_1k_tokens * 3
    row = new_row(**like, ms_per_1k_tokens=slow, examples_per_s=1e6 / slow / 20)
    other = row | {"mode": "head", "ms_per_1k_tokens": 1e9}
    of = costs(rows=[row, other])
    assert of.point(FULL, 64, 32).ms_per_1k_tokens == pytest.approx(3 * usual)
    assert of.notes[-1] == "times: by the speed of 1 runs on this machine"
    assert "right within a factor of a few" in costs().notes[-1]
    assert Variant.of(row).batch_size == 16


def test_the_error_is_that_of_the_verified_batches_which_are_on_the_page(tmp_path, monkeypatch):
    root = Path(__file__).parents[3]
    page, readme = ((root / name).read_text("utf-8") for name in ("docs/fit.md", "README.md"))
    assert "(docs/fit.md)" in readme[:1000], "the first screen"
    entries = json.loads(answers.VERIFIED.read_text("utf-8"))
    assert f"The {len(entries)} so far, on one machine" in page
    assert costs().notes[0] in page
    assert equal_memory.page(page) == page
    for model in {entry["model"] for entry in entries}:
        own = [(e["promised"], e["fits"]) for e in entries if e["model"] == model]
        fitted = sum(promised <= fits for promised, fits in own)
        close = sum(abs(promised - fits) <= max(1, fits / 10) for promised, fits in own)
        assert f"| {model} | {len(own)} | {fitted} | {close} |" in page
    entries = [{"promised": p, "fits": f} for p, f in ((109, 100), (2, 1), (50, 100), (115, 100))]
    (tmp_path / "verified.json").write_text(json.dumps(entries))
    monkeypatch.setattr(answers, "VERIFIED", tmp_path / "verified.json")
    assert costs().notes[0] == (
        "error of the forecast: 1 of 4 promised batches fitted when they were verified, and 2 were "
        "within 10%, or one text, of the largest that did; each leaves 20% to spare, and trained "
        "two steps on texts of one length"
    )


def test_batches_that_memory_alone_does_not_bound_are_remarked_on():
    of = costs()
    assert answers.remarks([of.point(FULL, n, 16) for n in (1, 65_535)]) == []
    few, most = answers.remarks([of.point(FULL, n, 16) for n in (0, 65_536, 0)])
    assert few == "batch 0: not even one text fits, whose memory is shown"
    assert most.startswith("batch 65,536: the most that a grid takes")
    with pytest.raises(InputError, match="the chosen settings can't be counted"):
        of.answers([], [16], 1000)


def test_curves_say_from_where_on_little_is_saved(undrawn):
    curves = costs().curves([FULL, LORA], "mine", 512)
    assert (curves.batch, curves.length) == (64, 128)
    [at] = curves.under_10.values()

    def saved(length):
        own, full = (costs().point(c, 64, length).peak_mib for c in (LORA, FULL))
        return 1 - own / full

    assert saved(at) < 0.1 <= saved(at - 1)
    section = lengths_section(curves)[0]
    assert f"from {at} tokens on it saves under 10%" in section.lines[0]
    saved_by_owner = "198 MiB of optimizer, 39.6 MiB of rest."
    assert section.lines[0].endswith(f"What it saves at 16 tokens: {saved_by_owner}")
    stems = [drawing.stem for drawing in section.drawings]
    assert stems == ["memory-by-length", "memory-by-batch", "time-by-length"]

    of = replace(costs(), formulae={FULL: FORMULAE, LORA: FORMULAE})  # which saves nothing
    lines = lengths_section(of.curves([FULL, LORA], "mine", 512))[0].lines
    assert not any("What it saves" in line for line in lines)
    [line] = [line for line in lines if "full fine-tuning, at 512" in line]
    assert line.endswith(("under 10%.", "there."))
