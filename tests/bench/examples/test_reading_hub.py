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
REASONS = {
    ("none", None): "hub:user/none: can't be read (Dataset 'user/none' doesn't exist",
    ("one@v9", None): "hub:user/one@v9: can't be read (Revision 'v9' doesn't exist",
    ("both", None): "among the available configs: ['both', 'other']",
    ("both", "third"): "'third' not found. Available: ['both', 'other']",
}


def test_a_set_is_read_at_its_revision_and_offline_or_a_line_says_what_is_wrong(tmp_path):
    need_data()

    def file(*texts):
        columns = {"sentence": texts, "label": ["a", "b"]}
        return write_parquet(tmp_path / "made.parquet", columns).read_bytes()

    def read(url, *specs, **environment):
        """Reads in a process of its own; a spec is a path and a configuration."""
        named = [{"path": f"hub:user/{path}", "config": config} for path, config in specs]
        return ask_apart(_READ, url, tmp_path / "hf", json.dumps(named), **environment)

    one = {"train.parquet": file("t1", "t2"), "validation.parquet": file("v1", "v2")}
    old = {"train.parquet": file("old 1", "old 2")}
    two = {**one, "test.parquet": file("s1", "s2"), "README.md": _CARD.encode()}
    sets = {"datasets/user/one": {"main": one, "v1": old}, "datasets/user/both": {"main": two}}
    specs = ("one", None), ("one@v1", None), (f"one@{commit_of(old)}", None), ("both", "both")
    with serve(Hub(sets)) as hub:
        newest, tag, commit, both, *wrong = read(hub.url, *specs, *REASONS)
    assert newest["texts"] == both["texts"] == ["t1", "t2"]
    assert newest["validation"] == both["validation"] == ["v1", "v2"]
    assert newest["labels"] == [0, 1]
    assert tag["texts"] == commit["texts"] == ["old 1", "old 2"]
    assert tag["validation"] is None
    assert both["test"] == ["s1", "s2"]
    for answer, reason in zip(wrong, REASONS.values(), strict=True):
        assert reason in answer["error"]
        assert answer["error"].isprintable()
    specs = ("both", "both"), ("both@v9", "both"), ("two", None)
    again, other, unknown = read("http://127.0.0.1:9", *specs, HF_HUB_OFFLINE="1")
    assert again["texts"] == ["t1", "t2"]
    assert f"is only another: hub:user/both@{commit_of(two)} takes" in other["error"]
    assert "hub:user/two: can't be read (Couldn't reach 'user/two' on" in unknown["error"]


def test_what_can_be_no_name_is_refused(tmp_path, monkeypatch):
    need_data()
    for name in ("hub:", "hub:a/b/c", "hub:../secret", "hub:@main", "hub:a b"):
        with pytest.raises(InputError, match=r"^hub:.*(is no name on the hub|can't be read)"):
            read_file(name)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "user" / "one").mkdir(parents=True)
    with pytest.raises(InputError, match="hidden by a folder of that name"):
        read_file("hub:user/one")
