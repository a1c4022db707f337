"""The fresh process in which exported models answer, and their snippets on the command line."""

import json
import runpy
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

from bench.common.errors import InputError
from bench.export.check import labels_of, texts_of
from bench.export.formats import FORMATS, SNIPPET
from bench.export.fresh import run_fresh
from bench.export.snippets import answers
from tests.bench.export.small import base_of, expected_logits, need_libraries


def test_8_bit_weights_answer_nearly_the_same_and_are_timed(exports):
    own, folder = exports("onnx", kind="multi_label")
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


@pytest.mark.parametrize(
    ("code", "message"),
    [
        *((f"import {name}", f".*{name}") for name in ("bench", "minbert", "adapters")),
        ("import os\nos._exit(3)", "it ended with code 3"),
    ],
)
def test_this_project_cannot_be_imported_and_an_error_is_a_line(
    tmp_path, monkeypatch, code, message
):
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    (tmp_path / SNIPPET).write_text(f"{code}\n")
    with pytest.raises(InputError, match=f"fails in a fresh process: {message}") as raised:
        run_fresh(tmp_path, ["a text"])
    assert "\n" not in str(raised.value)


def test_the_process_has_no_hub_but_the_base(tmp_path, base, monkeypatch):
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
def test_probabilities_are_of_classes_or_of_each_label(tmp_path, problem, expected):
    (tmp_path / "config.json").write_text(json.dumps({"problem_type": problem}))
    rows = np.array([[0.0, np.log(3)], [0.0, 0.0]])
    np.testing.assert_allclose(answers.probabilities(tmp_path, rows), expected)


@pytest.mark.parametrize(("count", "batches"), [(5, 1), (40, 2)])
def test_timed_batches_are_full(tmp_path, count, batches):
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


@pytest.mark.parametrize("name", FORMATS)
def test_every_snippet_takes_pairs_and_refuses_half_of_one(name, tmp_path, monkeypatch, capsys):
    need_libraries(name)
    config = {"text_pairs": True, "problem_type": "regression", "id2label": {"0": "x"}}
    (tmp_path / FORMATS[name].config).write_text(json.dumps(config))
    FORMATS[name].copy_scripts(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "answers", raising=False)
    snippet = runpy.run_path(str(tmp_path / SNIPPET), run_name="predict")
    main = import_module("answers").main
    monkeypatch.delitem(sys.modules, "answers")
    given: list[object] = []

    def logits(_loaded, texts):
        given.extend(texts)
        return np.array([[2.5]])

    monkeypatch.setattr(sys, "argv", ["predict.py", "good", "bad"])
    main(lambda *_: None, logits, snippet["__doc__"])
    assert given == [("good", "bad")]
    assert capsys.readouterr().out == "('good', 'bad') -> 2.5 x=2.5\n"
    monkeypatch.setattr(sys, "argv", ["predict.py", "good"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(tmp_path / SNIPPET), run_name="__main__")
    assert "the model takes pairs: two texts each" in capsys.readouterr().err
