"""Checkpoints from the Hugging Face hub, against a stand-in for it on this machine."""

from importlib.util import find_spec

import pytest

from minbert.assets import hub as module
from minbert.assets.hub import fetch_from_hub
from minbert.errors import InputError
from tests.components import need
from tests.minbert.stand_in_hub import Hub, ask_apart, commit_of, serve


def files(*names):
    return {name: name.encode() * 5000 for name in names}


_WANTED = files(
    "README.md", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    "vocab.txt",
)  # fmt: skip
_FILES = _WANTED | files("pytorch_model.bin", "flax_model.msgpack")
_OLD = {**_FILES, "model.safetensors": b"older weights"}
_BIN_ONLY = files("config.json", "pytorch_model.bin", "vocab.txt")
_ROBERTA = files(
    "config.json", "model.safetensors", "vocab.json", "merges.txt", "special_tokens_map.json",
    "1_Pooling/config.json",
)  # fmt: skip
_PIECES = files("config.json", "model.safetensors", "sentencepiece.bpe.model")
_SHARDS = files(
    "config.json", "model.safetensors.index.json", "model-00001-of-00002.safetensors",
    "tokenizer.json",
)  # fmt: skip
_FETCH = """
import json, sys
from pathlib import Path
from minbert.errors import InputError
from minbert.assets.hub import fetch_from_hub
found = []
for name in sys.argv[1:]:
    try:
        folder = fetch_from_hub(name)
        files = {
            str(path.relative_to(folder)): len(path.read_bytes())
            for path in folder.rglob("*") if path.is_file()
        }
        found.append({"folder": str(folder), "files": files})
    except InputError as error:
        found.append({"error": str(error)})
assert "torch" not in sys.modules and "transformers" not in sys.modules
print(json.dumps(found))
"""


@pytest.fixture
def hub():
    models = {
        "tiny": {"main": _FILES}, "user/tiny": {"main": _FILES, "v1": _OLD},
        "user/bin": {"main": _BIN_ONLY}, "user/gated": {"main": _FILES},
        "user/no-vocab": {"main": files("config.json", "model.safetensors")},
        "user/roberta": {"main": _ROBERTA}, "user/pieces": {"main": _PIECES},
        "user/shards": {"main": _SHARDS},
    }  # fmt: skip
    with serve(Hub(models, gated=("user/gated",))) as served:
        yield served


@pytest.fixture
def fetch(tmp_path):
    """Fetches in a process of its own."""
    need(find_spec("huggingface_hub") is not None, "no huggingface_hub", component="transformers")
    return lambda url, *names, **more: ask_apart(_FETCH, url, tmp_path / "hf", *names, **more)


def test_fetches_what_an_encoder_needs_and_its_card_alone_or_refuses_in_one_line(hub, fetch):
    old = _WANTED | {"model.safetensors": _OLD["model.safetensors"]}
    sets = {
        "tiny": _WANTED, "user/tiny": _WANTED, "user/roberta": _ROBERTA, "user/pieces": _PIECES,
        "user/bin": _BIN_ONLY,  # a pickle only where there is nothing better
        "user/tiny@v1": old, f"user/tiny@{commit_of(_OLD)}": old,
    }  # fmt: skip
    here = "is no folder here, and on the Hugging Face hub it"
    refused = {
        "no-such-model": f"{here} does not exist",
        "user/tiny@v9": "on the Hugging Face hub it has no branch, tag or commit v9",
        "user/gated": f"user/gated {here} is gated",
        "user/no-vocab": "holds no tokenizer.json or vocab.txt or vocab.json or",
        "user/shards": "holds no model.safetensors or pytorch_model.bin",
        "a--b..c": f"a--b..c {here} can't exist",
    }
    answers = dict(zip([*sets, *refused], fetch(hub.url, *sets, *refused), strict=True))
    for name, expected in sets.items():
        assert answers[name]["files"] == {path: len(expected[path]) for path in expected}
    assert answers["user/tiny@v1"]["folder"] == answers[f"user/tiny@{commit_of(_OLD)}"]["folder"]
    assert _WANTED.keys() <= hub.fetched() <= {*_WANTED, *_ROBERTA, *_PIECES, *_BIN_ONLY}
    for name, text in refused.items():
        assert text in answers[name]["error"]
        assert "\n" not in answers[name]["error"]


def test_a_broken_connection_is_one_line_and_what_is_whole_serves_offline(hub, fetch, tmp_path):
    hub.broken = ("model.safetensors",)
    (tmp_path / "a-file").touch()
    for environment in ({}, {"HF_HOME": str(tmp_path / "a-file" / "hf")}):
        (answer,) = fetch(hub.url, "user/tiny", **environment)
        assert "on the Hugging Face hub it can't be fetched" in answer["error"]
        assert "\n" not in answer["error"]
    here = "is no folder here, and on the Hugging Face hub it can't be reached"
    (offline,) = fetch("http://127.0.0.1:9", "user/tiny")
    assert f"user/tiny {here}" in offline["error"]
    hub.broken = ()
    (whole,) = fetch(hub.url, "user/tiny")
    assert whole["files"]["model.safetensors"] == len(_FILES["model.safetensors"])
    (again,) = fetch("http://127.0.0.1:9", "user/tiny", HF_HUB_OFFLINE="1")
    again_online, other = fetch("http://127.0.0.1:9", "user/tiny", "user/bin")
    assert again["folder"] == again_online["folder"] == whole["folder"]
    assert f"user/bin {here}" in other["error"]


def test_without_the_extra_the_error_says_how_to_install_it(monkeypatch):
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[hub\]'"):
        fetch_from_hub("bert-base-uncased")
