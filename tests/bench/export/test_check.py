"""The check of exported folders names what is wrong; and the process in which they answer."""

import json
import runpy
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bench.common.errors import InputError
from bench.export.check import _tolerance, _wrong, check, run_fresh
from bench.export.formats import FORMATS, SNIPPET
from bench.export.snippets import answers
from tests.bench.export import small


def _tensors(name, edit):
    def change(folder):
        tensors = {key: value.clone() for key, value in load_file(folder / name).items()}
        edit(tensors)
        save_file(tensors, folder / name, {"format": "pt"})

    return change


def _snippet(before, after):
    def change(folder):
        text = (folder / SNIPPET).read_text()
        assert before in text
        (folder / SNIPPET).write_text(text.replace(before, after))

    return change


def _without_last_module(folder):
    path = folder / "modules.json"
    path.write_text(json.dumps(json.loads(path.read_text())[:-1]))


MEAN_HERE = {"pooling": "mean", "on_hub": False}
PAIRS = json.dumps({"text_pairs": True, "problem_type": "regression", "id2label": {"0": "x"}})
ORDER = {"0": "maybe", "1": "right", "2": "wrong"}
CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
POOLING = small.with_json("1_Pooling/config.json", **CLS)


@pytest.mark.parametrize(("name", "settings", "change", "message"), [
    ("sentence-transformers", MEAN_HERE, POOLING, "pooling"),
    ("peft", {}, small.with_json("adapter_config.json", lora_alpha=32), "adapter scale"),
    ("transformers", {}, small.with_json("config.json", id2label=ORDER), "class names differ"),
    ("transformers", {}, _tensors("model.safetensors", lambda tensors: tensors.update(
        {key: of.roll(1, dims=0) for key, of in tensors.items() if "classifier" in key}
    )), "are in another order"),
    ("sentence-transformers", {"kind": "regression", **MEAN_HERE},
     _tensors("2_Dense/model.safetensors", lambda t: t["linear.bias"].sub_(3.0)),
     "logits are scaled or shifted"),
    ("transformers", {}, _snippet("model(**inputs)", "model(inputs['input_ids'])"), "padding"),
    ("transformers", {}, small.with_json("tokenizer_config.json", model_max_length=8),
     "texts over 8 tokens are truncated differently"),
    ("transformers", {}, _tensors("model.safetensors", lambda t: t.pop("classifier.weight")),
     "such as the head, is missing"),
    ("peft", {}, small.with_json("base.json", sha256="0" * 64),
     "model.safetensors has changed; the adapter was trained on the file with"),
    ("sentence-transformers", MEAN_HERE, _without_last_module,
     "returns 32 logits for a text, the cell's model 3: the head is missing"),
])  # fmt: skip
def test_what_is_wrong_is_named(tmp_path, exports, here, name, settings, change, message):
    cell, folder = exports(name, **settings)
    change(shutil.copytree(folder, tmp_path / "out"))
    refused(cell, tmp_path / "out", message)


def refused(cell, folder, message):
    with pytest.raises(
        InputError, match=f"failed its check and was not kept: .*{message}"
    ) as raised:
        check(cell, folder, small.expected_logits(cell))
    assert "\n" not in str(raised.value)


def test_one_wrong_logit_is_enough(base):
    cell = small.trained(base)
    expected = small.expected_logits(cell)
    for error in (1.5e-4, np.nan):
        off = expected.copy()
        off[3, 1] += error
        assert _wrong(off, expected, _tolerance(cell)) == [3]
    assert not _wrong(expected + 0.5e-4, expected, _tolerance(cell))
    assert _tolerance(replace(cell, unit=(0.0, 20.0))) == pytest.approx(20e-4)
    assert _tolerance(replace(cell, unit=(0.0, 0.1))) == pytest.approx(1e-4)


def test_names_that_dev_never_gets_and_texts_that_it_lacks_are_checked(base, tmp_path, here):
    """With one short dev example, of a model that gives all texts the same class."""
    cell = small.trained(base)
    with torch.no_grad():
        cell.model.classifier.bias[0] += 50
    cell = replace(cell, dev=cell.dev.taken([1]))
    folder = small.exported(cell, "transformers", tmp_path / "out")
    kept = int(small.expected_logits(cell).argmax())
    names = [name for name in small.CLASSES if name != small.CLASSES[kept]][::-1]
    names.insert(kept, small.CLASSES[kept])
    small.with_json("config.json", id2label={str(n): name for n, name in enumerate(names)})(folder)
    refused(cell, folder, "class names differ")
    folder = small.exported(cell, "transformers", tmp_path / "cut")
    small.with_json("tokenizer_config.json", model_max_length=8)(folder)
    refused(cell, folder, "truncated differently")


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
            run_fresh(tmp_path, ["a text"], base=small.base_of(base, on_hub), threads=3)
        assert f"fails in a fresh process: {line}" in str(raised.value)
        assert "\n" not in str(raised.value)


@pytest.mark.parametrize(("problem", "expected"), [
    ("single_label_classification", [[0.25, 0.75], [0.5, 0.5]]),
    ("multi_label_classification", [[0.5, 0.75], [0.5, 0.5]]),
    ("regression", [[0.0, np.log(3)], [0.0, 0.0]]),
])  # fmt: skip
def test_probabilities_are_of_classes_or_of_each_label(tmp_path, problem, expected):
    (tmp_path / "config.json").write_text(json.dumps({"problem_type": problem}))
    rows = np.array([[0.0, np.log(3)], [0.0, 0.0]])
    np.testing.assert_allclose(answers.probabilities(tmp_path, rows), expected)


def test_timed_batches_are_full(tmp_path):
    (tmp_path / SNIPPET).write_text(
        "import time\nimport numpy as np\n"
        "load = lambda folder: None\n"
        "def logits(model, texts):\n"
        "    time.sleep(len(texts) / 1000)\n    return np.zeros((len(texts), 1))\n"
    )
    (tmp_path / "answers.py").write_text(
        "labels = lambda folder, rows: []\npredictor = lambda folder, logits, tokens: logits\n"
    )
    answer = run_fresh(tmp_path, ["a text"] * 75, timed=True)
    assert (len(answer.one_ms), len(answer.batch_ms)) == (50, 3)
    assert min(answer.batch_ms) >= 32


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
    small.need_libraries(name)
    (tmp_path / FORMATS[name].config).write_text(PAIRS)
    FORMATS[name].copy_scripts(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "argv", ["predict.py", "good"])
    sys.modules.pop("answers", None)  # of another format
    with pytest.raises(SystemExit):
        runpy.run_path(str(tmp_path / SNIPPET), run_name="__main__")
    assert "the model takes pairs: two texts each" in capsys.readouterr().err
