"""A tiny checkpoint, places to run grids in, and a browser to look at pages with."""

import shutil
from dataclasses import replace
from typing import Final

import pytest

from tests.bench.grids import GridRuns
from tests.components import chromium, need

ARGS: Final = ["--no-sandbox", "--disable-gpu", "--disable-background-networking",
               "--disable-component-update", "--disable-sync"]  # fmt: skip


@pytest.fixture(scope="session")
def tiny_checkpoint(minilm, tmp_path_factory):
    """A checkpoint of one narrow layer with random weights and the real vocabulary."""
    return narrow(1, tmp_path_factory.mktemp("checkpoints") / "tiny", minilm)


@pytest.fixture(scope="session")
def deep_checkpoint(minilm, tmp_path_factory):
    """The same of four layers, of which each epoch of gradual unfreezing adds one."""
    return narrow(4, tmp_path_factory.mktemp("checkpoints") / "deep", minilm)


def narrow(layers, folder, vocabulary, spread=0.02):
    """Save a checkpoint in a folder; with a large `spread` of weights texts have other outputs."""
    from minbert.model.checkpoint import save_checkpoint
    from minbert.model.classifier import BertClassifier, initialise
    from minbert.model.config import GEOMETRIES

    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    sizes |= {"num_hidden_layers": layers, "initializer_range": spread}
    config = replace(GEOMETRIES["bert-tiny"], **sizes)
    model = BertClassifier(config, 5, pooling="pooler", dropout=0.1)
    initialise(model, 0)
    save_checkpoint(model, folder)
    for path in (*vocabulary.glob("tokenizer*.json"), *vocabulary.glob("vocab.txt")):
        shutil.copy(path, folder)
    return folder


@pytest.fixture
def cache(tmp_path, minilm, monkeypatch):
    """A cache of this test's own; what was fetched is still there."""
    monkeypatch.setenv("MINBERT_ASSETS", str(minilm.parent))
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def grid(tmp_path, tiny_checkpoint):
    """A place to run grids in, whose cells are trained in this process."""
    return GridRuns(tmp_path, tiny_checkpoint, workers_here=True)


@pytest.fixture
def undrawn(monkeypatch):
    """Figures are made and not drawn, which takes most of the time of a report."""
    skip_drawing(monkeypatch)


def skip_drawing(patch):
    """Leave out the layout of figures and their files' content."""
    patch.setattr("bench.report.drawing.lay_out", lambda _figure: None)
    patch.setattr(
        "matplotlib.figure.Figure.savefig", lambda _figure, file, **_: file.write("<svg >")
    )


@pytest.fixture(scope="module")
def browser():
    need(chromium() is not None, "Chromium or Chrome", component="chromium")
    with pytest.importorskip("playwright.sync_api").sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium(), args=ARGS)
        yield running
        running.close()
