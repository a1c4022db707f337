"""Facts and costs of exports next to runs.csv change one by one and stay if damaged."""

import json

import numpy as np
import pytest

from bench.common.errors import InputError
from bench.results import exports, facts
from bench.results.exports import EXPORTS, Figures, Form, latest_figures, read_exports
from bench.results.facts import DataFacts, FinalScore, Reference, read_facts, update_facts
from bench.results.rescoring import read_results
from minbert.data.tasks import Examples, Task, TaskData

FACTS = DataFacts(task="mine", problem="single_label", classes=("a", "b"), train=4, dev=2)
POINT = Reference(name="tf-idf", about="", train=4, scores={"accuracy": (0.5, 0.4, 0.6)})
FINAL = FinalScore(
    setting="full, fp32", cell_id="x", seed=0, metric="accuracy", dev=0.5, test="test.csv",
    digest="d", examples=9, scores={"accuracy": (0.4, 0.2, 0.6)}, at="2026-11-27T00:00:00Z",
)  # fmt: skip


def test_facts_of_other_data_stay_when_some_change(tmp_path):
    runs = tmp_path / "runs.csv"
    assert read_facts(runs) == {}
    update_facts(runs, "one", lambda known: FACTS if known is None else known)
    update_facts(runs, "two", lambda _: FACTS.model_copy(update={"source": "x.csv"}))
    scored = FACTS.model_copy(update={"references": (POINT,), "final": FINAL})
    assert update_facts(runs, "one", lambda _: scored) == scored
    renamed = FACTS.model_copy(update={"classes": ("no", "yes")})
    update_facts(runs, "one", renamed.with_scores_of)
    one, two = read_facts(runs).values()
    assert (one.classes, one.references, one.final) == (("no", "yes"), (POINT,), FINAL)
    assert two.source == "x.csv"
    text = (tmp_path / "runs.data.json").read_text(encoding="utf-8")
    assert json.loads(text)["one"]["final"]["scores"] == {"accuracy": [0.4, 0.2, 0.6]}


@pytest.mark.parametrize(
    "content",
    ["", "[]", "{", '{"abcd": {"x": 1}}', '{"abcd": 5}', '{"abcd": {"train": 1e31}}'],
)
@pytest.mark.parametrize("file", [facts.FACTS, exports.EXPORTS], ids=["facts", "exports"])
def test_a_file_that_can_not_be_read_is_named_and_left_alone(file, content, tmp_path):
    runs = tmp_path / "runs.csv"
    path = file.path(runs)
    path.write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"{path.name}: can't be read .* delete it, which loses"):
        file.read(runs)
    with pytest.raises(InputError, match="can't be read") as caught:
        file.update(runs, "one", lambda _: FACTS)
    assert "\n" not in str(caught.value)
    assert path.read_text(encoding="utf-8") == content


def test_facts_describe_examples_by_their_names_and_tokens():
    examples = Examples(("x", "y"), None, np.array([0, 1]))
    data = TaskData(Task("mine", ("a", "b")), examples, examples)
    unchecked = FACTS.model_copy(update={"source": "x.csv", "tokens_of": "v, 512"})
    own = (data, {}, "v, 512")
    assert not unchecked.describes(*own)
    checked = unchecked.model_copy(update={"checks": object()})
    assert checked.describes(*own)
    renamed = TaskData(Task("mine", ("no", "yes")), examples, examples)
    for place, other in enumerate((renamed, {"text": "x"}, "w, 512")):
        assert not checked.describes(*own[:place], other, *own[place + 1 :])


FORMS = (
    Form(name="merged", format="transformers", size_mb=91.2, one_ms=4.25, batch_ms=60.0, score=0.61,
         changed=0, largest_difference=1e-6, libraries={"transformers": "5.24"}),
    Form(name="onnx", format="onnx", missing="--format onnx needs onnx: pip install onnx"),
)  # fmt: skip
FIGURES = Figures(
    forms=FORMS, metric="accuracy", examples=1000, machine="Xeon", threads=2,
    at="2026-11-27T10:00:00+00:00",
)  # fmt: skip


def test_figures_of_a_cell_replace_its_earlier_ones_and_of_several_files_the_latest_count(tmp_path):
    one, two = tmp_path / "one.csv", tmp_path / "two.csv"
    one.touch()
    assert read_exports(one) == {}
    other = FIGURES.model_copy(update={"forms": FORMS[:1]})
    for cell_id, figures in (("a", other), ("b", other), ("a", FIGURES)):
        EXPORTS.update(one, cell_id, lambda _, figures=figures: figures)
    assert read_exports(one) == read_results([one], None).exports == {"a": FIGURES, "b": other}
    text = (tmp_path / "one.exports.json").read_text(encoding="utf-8")
    assert json.loads(text)["a"]["forms"][0]["one_ms"] == 4.25
    forms = [FIGURES.form(name) for name in ("merged", "onnx", "onnx-int8")]
    assert forms == [FORMS[0], None, None], "only those that were measured"
    newer = FIGURES.model_copy(update={"at": "2026-11-28T10:00:00+00:00", "threads": 8})
    EXPORTS.update(two, "a", lambda _: newer)
    known = {"a": newer, "b": other}
    assert read_exports(one, two) == read_exports(two, one) == known
    assert latest_figures(known, ["b", "a", "c"]) == newer
    assert latest_figures({}, ["a"]) is None
