"""The fresh process in which exported models answer, and their snippets on the command line."""

import json
import runpy
import sys
from pathlib import Path
from unittest import mock

import numpy as np
import pytest

from bench.common.errors import InputError
from bench.export.check import labels_of, texts_of
from bench.export.formats import FORMATS, SNIPPET
from bench.export.fresh import run_fresh
from bench.export.snippets import answers
from tests.bench.export.small import base_of, expected_logits, need_libraries


def test_8_bit_weights_answer_nearly_the_same_and_are_timed(exports):
    own, folder = exports("onnx")
    texts = texts_of(own.dev) * 5
    answer = run_fresh(folder, texts, weights="model-int8.onnx", timed=True, threads=1)
    expected = np.tile(expected_logits(own), (5, 1))
    assert 1e-4 < np.abs(answer.logits - expected).max() < 0.5
    assert answer.logits.dtype == np.float32
    assert answer.labels == labels_of(own.task, answer.logits)
    assert (len(answer.one_ms), len(answer.batch_ms)) == (50, 3)
    assert min(answer.one_ms + answer.batch_ms) > 0
    assert answer.libraries.keys() == {"onnxruntime", "tokenizers"}


ENVIRONMENT = """
import os
from importlib import import_module

def missing(name):
    try:
        import_module(name)
    except ImportError:
        return name

names = "HF_HUB_OFFLINE", "TRANSFORMERS_CACHE", "OMP_NUM_THREADS", "HF_HUB_CACHE"
packages = "bench", "minbert", "adapters"
raise SystemExit(repr([*map(missing, packages), *map(os.environ.get, names)]))
"""


def test_the_process_has_no_hub_but_the_base_and_not_this_project(tmp_path, base, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("TRANSFORMERS_CACHE", "/elsewhere")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    (tmp_path / "answers.py").touch()
    for code, on_hub, line in (
        (ENVIRONMENT, True, "['bench', 'minbert', 'adapters', '1', None, '3', '/"),
        ("load = lambda *_, base: exit(base)\n", False, str(base)),
        ("import os\nos._exit(3)\n", True, "it ended with code 3"),
    ):
        (tmp_path / SNIPPET).write_text(code)
        with pytest.raises(InputError) as raised:
            run_fresh(tmp_path, ["a text"], base=base_of(base, on_hub), threads=3)
        assert f"fails in a fresh process: {line}" in str(raised.value)
        assert "\n" not in str(raised.value)


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


def test_timed_batches_are_full(tmp_path):
    """The time of a batch here is its size in ms."""
    (tmp_path / SNIPPET).write_text(
        "import time\nimport numpy as np\n"
        "load = lambda folder: None\n"
        "def logits(model, texts):\n"
        "    time.sleep(len(texts) / 1000)\n    return np.zeros((len(texts), 1))\n"
    )
    (tmp_path / "answers.py").write_text(
        "labels = lambda folder, rows: []\npredictor = lambda folder, logits, tokens: logits\n"
    )
    answer = run_fresh(tmp_path, ["a text"] * 40, timed=True)
    assert len(answer.batch_ms) == 2
    assert min(answer.batch_ms) >= 32


PAIRS = json.dumps({"text_pairs": True, "problem_type": "regression", "id2label": {"0": "x"}})


def test_a_pair_on_the_command_line_is_predicted(tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_text(PAIRS)
    monkeypatch.setattr(answers, "__file__", str(tmp_path / "answers.py"))
    monkeypatch.setattr(sys, "argv", ["predict.py", "good", "bad"])
    logits = mock.Mock(return_value=np.array([[2.5]]))
    answers.main(lambda *_: "model", logits, "about")
    logits.assert_called_once_with("model", [("good", "bad")])
    assert capsys.readouterr().out == "('good', 'bad') -> 2.5 x=2.5\n"


@pytest.mark.parametrize("name", FORMATS)
def test_every_snippet_is_a_command_and_refuses_half_of_a_pair(name, tmp_path, monkeypatch, capsys):
    need_libraries(name)
    (tmp_path / FORMATS[name].config).write_text(PAIRS)
    FORMATS[name].copy_scripts(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict.py", "good"])
    sys.modules.pop("answers", None)  # of another format
    with pytest.raises(SystemExit):
        runpy.run_path(str(tmp_path / SNIPPET), run_name="__main__")
    assert "the model takes pairs: two texts each" in capsys.readouterr().err
