"""Data sets from the Hugging Face hub, by `datasets`, against a stand-in for it on this machine."""

import json

import pytest

from bench.common.errors import InputError
from tests.bench.examples.tables import need_data, read_file, write_parquet
from tests.minbert.stand_in_hub import Hub, ask_apart, commit_of, serve

_READ = """
import json, sys
from bench.common.errors import InputError
from bench.examples.reading import read, read_test
from bench.plan.dataset import DataSpec

answers = []
for spec in json.loads(sys.argv[1]):
    try:
        data = read(DataSpec(**spec))
        answers.append({
            "texts": data.examples.text_a,
            "labels": data.examples.labels.tolist(),
            "validation": data.validation and data.validation.text_a,
            "test": read_test(data.spec)[0].text_a if spec.get("config") == "both" else None,
        })
    except InputError as error:
        answers.append({"error": str(error)})
assert "torch" not in sys.modules
print(json.dumps(answers))
"""
_CARD = """---
configs:
- config_name: both
  data_files:
  - {split: train, path: train.parquet}
  - {split: validation, path: validation.parquet}
  - {split: test, path: test.parquet}
- config_name: other
  data_files: validation.parquet
---
"""


@pytest.fixture
def read(tmp_path):
    """Reads in a process of its own."""
    return lambda url, *specs, **environment: ask_apart(
        _READ, url, tmp_path / "hf", json.dumps(specs), **environment
    )


@pytest.fixture
def hub(tmp_path):
    """A hub with a data set of one configuration, and one of two."""
    need_data()

    def file(*texts):
        columns = {"sentence": texts, "label": ["a", "b"]}
        return write_parquet(tmp_path / "made.parquet", columns).read_bytes()

    one = {"train.parquet": file("t1", "t2"), "validation.parquet": file("v1", "v2")}
    old = {"train.parquet": file("old 1", "old 2")}
    both = {**one, "test.parquet": file("s1", "s2"), "README.md": _CARD.encode()}
    sets = {"datasets/user/one": {"main": one, "v1": old}, "datasets/user/both": {"main": both}}
    with serve(Hub(sets)) as served:
        yield served


def test_a_set_is_read_at_its_revision_and_again_without_a_network(hub, read):
    v1 = commit_of(hub.models["datasets/user/one"]["v1"])
    newest, tag, commit, both = read(
        hub.url,
        {"path": "hub:user/one"},
        {"path": "hub:user/one@v1"},
        {"path": f"hub:user/one@{v1}"},
        {"path": "hub:user/both", "config": "both"},
    )
    assert newest["texts"] == both["texts"] == ["t1", "t2"]
    assert newest["validation"] == both["validation"] == ["v1", "v2"]
    assert newest["labels"] == [0, 1]
    assert tag["texts"] == commit["texts"] == ["old 1", "old 2"]
    assert tag["validation"] is None
    assert both["test"] == ["s1", "s2"]
    again, other, unknown = read(
        "http://127.0.0.1:9",
        {"path": "hub:user/both", "config": "both"},
        {"path": "hub:user/both@v9", "config": "both"},
        {"path": "hub:user/two"},
        HF_HUB_OFFLINE="1",
    )
    assert again["texts"] == ["t1", "t2"]
    newest_commit = commit_of(hub.models["datasets/user/both"]["main"])
    assert f"is only another: hub:user/both@{newest_commit} takes" in other["error"]
    assert "hub:user/two: can't be read (Couldn't reach 'user/two' on" in unknown["error"]


def test_each_thing_wrong_is_one_line_that_says_so(hub, read):
    reasons = {
        ("hub:user/none", None): "hub:user/none: can't be read (Dataset 'user/none' doesn't exist",
        ("hub:user/one@v9", None): "hub:user/one@v9: can't be read (Revision 'v9' doesn't exist",
        ("hub:user/both", None): "among the available configs: ['both', 'other']",
        ("hub:user/both", "third"): "'third' not found. Available: ['both', 'other']",
    }
    answers = read(hub.url, *({"path": path, "config": config} for path, config in reasons))
    for answer, reason in zip(answers, reasons.values(), strict=True):
        assert reason in answer["error"]
        assert answer["error"].isprintable()


def test_what_can_be_no_name_is_refused(tmp_path, monkeypatch):
    need_data()
    for name in ("hub:", "hub:a/b/c", "hub:../secret", "hub:@main", "hub:a b"):
        with pytest.raises(InputError, match=r"^hub:.*(is no name on the hub|can't be read)"):
            read_file(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "one").mkdir(parents=True)
    with pytest.raises(InputError, match="hidden by a folder of that name"):
        read_file("hub:user/one")
