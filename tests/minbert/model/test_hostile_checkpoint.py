"""Checkpoints that nobody should have: configurations, weights and pickles of every wrong kind."""

import functools
import json
import os
import zipfile
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.common.errors import InputError as Refused
from bench.engines import check
from minbert.errors import InputError
from minbert.model.config import BertConfig, count_parameters
from tests.hostile import (
    NEAR_THE_LIMIT,
    answer,
    changed,
    damaged,
    examples,
    nested,
    safetensors_bytes,
)
from tests.minbert.model.test_checkpoint import CONFIG, load, refused, tensors, write

VALUES = {"model_type": "bert", **asdict(CONFIG)}
WORDS = "bert.embeddings.word_embeddings.weight"


DEEP = st.sampled_from([*NEAR_THE_LIMIT, 10_000, 200_000]).map(nested)
WITH_DEEP = DEEP.map(lambda text: json.dumps(VALUES)[:-1] + f', "is_decoder": {text}}}')
TEXTS = changed(VALUES).map(json.dumps) | DEEP | WITH_DEEP


@examples(150)
@given(content=TEXTS.map(str.encode) | damaged(json.dumps(VALUES).encode()))
def test_a_changed_or_damaged_configuration_is_right_or_refused(folder, content):
    path = folder / "config.json"
    path.write_bytes(content)
    found = answer(lambda: BertConfig.from_folder(folder), InputError, path)
    if found is not None:
        values = json.loads(content.decode("utf-8-sig"))
        assert count_parameters(found) <= 10**11
        read = asdict(found)
        del read["first_position"]  # follows from model_type
        if read["embedding_size"] is None:  # only ELECTRA's is read
            del read["embedding_size"]
        assert all(values.get(key, value) in (value, None) for key, value in read.items())


@examples(80)
@given(data_of=changed({WORDS: {"dtype": "F32", "shape": [30, 12], "data_offsets": [0, 1440]}}))
def test_a_changed_header_is_right_or_refused(folder, data_of):
    write(folder, tensors())
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    place = header[WORDS]["data_offsets"]
    if isinstance(data_of, dict):
        mine = data_of.get(WORDS)
        if isinstance(mine, dict) and mine.get("data_offsets") == [0, 1440]:
            mine["data_offsets"] = place
        data_of = {**{k: v for k, v in header.items() if k != WORDS}, **data_of}
    path.write_bytes(safetensors_bytes(json.dumps(data_of), data))
    found = answer(lambda: load(folder), InputError, path)
    if found is not None:
        expected = np.frombuffer(data[place[0] : place[1]], np.float32).reshape(30, 12)
        assert np.array_equal(found.embeddings.word_embeddings.weight.detach(), expected)


def test_numbers_that_need_a_scale_are_refused(folder):
    write(folder, {name: t.to(torch.float8_e5m2) for name, t in tensors().items()})
    assert "of numbers that need a scale: embeddings" in refused(folder)


class Calls:
    """Its pickle, once loaded by a careless reader, calls a function."""

    def __init__(self, function, *arguments):
        self.called = (function, arguments)

    def __reduce__(self):
        return self.called


@pytest.mark.parametrize("kind", ["bin", "old bin"])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.mkdir, ("{}",)),
        (eval, ("open('{}', 'w')",)),
        (functools.partial, (os.mkdir, "{}")),
    ],
)
def test_a_pickle_that_calls_anything_is_refused_uncalled(folder, function, arguments, kind):
    sign = folder / "executed"
    filled = [a.format(sign) if isinstance(a, str) else a for a in arguments]
    hostile = {**tensors(), "more": Calls(function, *filled)}
    write(folder, hostile, kind)
    assert "tensors" in refused(folder)
    assert not sign.exists()


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.zeros(30, 12).to_sparse(),
        lambda: torch.zeros(30, 12, device="meta"),
        lambda: torch.quantize_per_tensor(torch.zeros(30, 12), 0.1, 0, torch.quint8),
        lambda: torch.nested.nested_tensor([torch.zeros(20, 12), torch.zeros(10, 12)]),
        lambda: [torch.zeros(30, 12)],
    ],
    ids=["sparse", "meta", "quantized", "nested", "list"],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_tensor_is_refused(folder, make):
    for kind in ("bin", "old bin"):
        try:
            write(folder, {**tensors(), WORDS: make()}, kind)
        except (RuntimeError, NotImplementedError):
            continue  # torch can't write it in this format
        refused(folder)


@pytest.mark.parametrize("kind", ["bin", "old bin"])
def test_a_few_bytes_that_claim_to_be_gigabytes_are_refused(folder, kind):
    large = replace(CONFIG, vocab_size=2**24)
    write(folder, {**tensors(), WORDS: torch.zeros(1).expand(2**24, 12)}, kind)
    assert (folder / "pytorch_model.bin").stat().st_size < 100_000
    assert "bytes of numbers" in refused(folder, large)


def test_a_packed_file_is_refused_packed(folder):
    write(folder, tensors(), "bin")
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content + bytes(10**8 if name.endswith(".pkl") else 0))
    assert path.stat().st_size < 10**6
    assert "is packed" in refused(folder)


def test_weights_that_are_no_numbers_are_refused_before_the_first_cell(folder):
    request = {"checkpoint": str(folder)}
    assert list(check.answers_to(request)) == ["loaded"]
    for value in (float("nan"), float("inf")):
        named = tensors()
        named[WORDS][3, 2] = value
        write(folder, named)
        with pytest.raises(InputError, match=r"word_embeddings\.weight holds NaN or infinite"):
            list(check.answers_to(request))


def test_a_checkpoint_that_never_ends_loading_is_given_up(folder, monkeypatch):
    monkeypatch.setattr(check, "PATIENCE_S", 0.01)
    with pytest.raises(Refused, match=r"could not be loaded in 0\.01 s"):
        check.check_checkpoint(folder, "never seen")


def test_a_checkpoint_is_not_loaded_again_once_that_could_be_done(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    loaded: list[object] = []

    def fails(*_):
        raise Refused(f"{folder}: no")

    monkeypatch.setattr(check, "_ask", fails)
    for _ in range(2):
        with pytest.raises(Refused, match="no"):
            check.check_checkpoint(folder, "one")
    monkeypatch.setattr(check, "_ask", lambda request, *_: loaded.append(request) or ["loaded"])
    for digest in ("one", "one", "another"):
        check.check_checkpoint(folder, digest)
    assert loaded == [{"checkpoint": str(folder)}] * 2
