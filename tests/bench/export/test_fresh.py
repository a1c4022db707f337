"""The fresh process in which exported models answer, and their snippets on the command line."""

import json
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench.common.errors import InputError
from bench.export.check import labels_of, texts_of
from bench.export.formats import FORMATS, SNIPPET
from bench.export.fresh import run_fresh
from bench.export.snippets import answers
from tests.bench.export.small import (
    answer_here,
    base_folder,
    base_of,
    expected_logits,
    exported,
    need_libraries,
    trained,
)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the base."""
    return base_folder(tmp_path_factory.mktemp("export") / "base")


def test_8_bit_weights_answer_nearly_the_same_and_are_timed(tmp_path: Path, base: Path) -> None:
    own = trained(base, kind="multi_label")
    folder = exported(own, "onnx", tmp_path / "out")
    texts = texts_of(own.dev) * 5
    answer = run_fresh(folder, texts, weights="model-int8.onnx", timed=True, threads=1)
    expected = np.tile(expected_logits(own), (5, 1))
    assert 1e-4 < np.abs(answer.logits - expected).max() < 0.5
    assert answer.logits.dtype == np.float32
    assert answer.labels == labels_of(own.task, answer.logits)
    assert len(answer.one_ms) == 50
    assert len(answer.batch_ms) == 3
    assert min(answer.one_ms + answer.batch_ms) > 0
    assert answer.libraries.keys() == {"onnxruntime", "tokenizers"}
    sizes = [(folder / name).stat().st_size for name in ("model-int8.onnx", "model.onnx")]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("module", ["bench", "minbert", "adapters"])
def test_this_project_cannot_be_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    (tmp_path / SNIPPET).write_text(f"import {module}\n")
    with pytest.raises(InputError, match=f"fails in a fresh process: .*{module}") as raised:
        run_fresh(tmp_path, ["a text"])
    assert "\n" not in str(raised.value)


def test_the_process_has_no_hub_but_the_base(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("TRANSFORMERS_CACHE", "/elsewhere")
    names = "HF_HUB_OFFLINE", "TRANSFORMERS_CACHE", "OMP_NUM_THREADS", "HF_HUB_CACHE"
    (tmp_path / SNIPPET).write_text(
        f"import os\nraise SystemExit(repr([os.environ.get(name) for name in {names}]))\n"
    )
    with pytest.raises(InputError) as raised:
        run_fresh(tmp_path, ["a text"], base=base_of(base), threads=3)
    assert "['1', None, '3', '/" in str(raised.value)


@pytest.mark.parametrize(
    ("problem", "expected"),
    [
        ("single_label_classification", [[0.25, 0.75], [0.5, 0.5]]),
        ("multi_label_classification", [[0.5, 0.75], [0.5, 0.5]]),
        ("regression", [[0.0, np.log(3)], [0.0, 0.0]]),
    ],
)
def test_probabilities_are_of_classes_or_of_each_label(
    tmp_path: Path, problem: str, expected: list[list[float]]
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"problem_type": problem}))
    rows = np.array([[0.0, np.log(3)], [0.0, 0.0]])
    np.testing.assert_allclose(answers.probabilities(tmp_path, rows), expected)


def test_a_process_that_says_nothing_is_one_line(tmp_path: Path) -> None:
    (tmp_path / SNIPPET).write_text("import os\nos._exit(3)\n")
    with pytest.raises(InputError, match="fails in a fresh process: it ended with code 3"):
        run_fresh(tmp_path, ["a text"])


@pytest.mark.parametrize(("count", "batches"), [(5, 1), (40, 2)])
def test_timed_batches_are_full(tmp_path: Path, count: int, batches: int) -> None:
    """The time of a batch here is its size in ms."""
    (tmp_path / SNIPPET).write_text(
        "import time\nimport numpy as np\n"
        "load = lambda folder: None\n"
        "def logits(model, texts):\n"
        "    time.sleep(len(texts) / 1000)\n    return np.zeros((len(texts), 1))\n"
    )
    (tmp_path / "answers.py").write_text("labels = lambda folder, rows: []\n")
    answer = run_fresh(tmp_path, ["a text"] * count, timed=True)
    assert len(answer.batch_ms) == batches
    assert min(answer.batch_ms) >= 32


def test_the_snippet_takes_texts_on_the_command_line(tmp_path: Path, base: Path) -> None:
    folder = exported(trained(base), "onnx", tmp_path / "out")
    texts = ["good", "not a bad film"]
    lines = predicted(folder, *texts)
    answer = answer_here(folder, texts)
    powers = np.exp(answer.logits)
    shares = powers / powers.sum(axis=1, keepdims=True)
    for line, text, label, row in zip(lines, texts, answer.labels, shares, strict=True):
        assert line.startswith(f"{text} -> {label} wrong={row[0]:.4g} right={row[1]:.4g} ")


def test_the_snippet_takes_pairs_and_gives_numbers(tmp_path: Path, base: Path) -> None:
    folder = exported(trained(base, kind="regression", pairs=True), "onnx", tmp_path / "out")
    (line,) = predicted(folder, "good", "bad")
    number = answer_here(folder, [("good", "bad")]).labels[0]
    assert line.startswith(f"('good', 'bad') -> {number}")


@pytest.mark.parametrize("name", FORMATS)
def test_every_snippet_refuses_half_a_pair(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    need_libraries(name)
    (tmp_path / FORMATS[name].config).write_text('{"text_pairs": true}')
    FORMATS[name].copy_scripts(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    snippet = tmp_path / SNIPPET
    monkeypatch.setattr(sys, "argv", [str(snippet), "good"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(snippet), run_name="__main__")
    assert "the model takes pairs: two texts each" in capsys.readouterr().err


def predicted(folder: Path, *arguments: str) -> list[str]:
    """The lines that the folder's snippet prints."""
    done = subprocess.run(
        [sys.executable, "-E", folder / SNIPPET, *arguments],
        capture_output=True, check=True, encoding="utf-8",
    )  # fmt: skip
    return done.stdout.splitlines()
