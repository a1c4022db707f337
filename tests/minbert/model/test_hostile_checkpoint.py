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
from safetensors.torch import save_file

from bench.common.errors import InputError as Refused
from bench.engines import check
from minbert.errors import InputError
from minbert.model.checkpoint import load_encoder
from minbert.model.classifier import BertClassifier, initialise
from minbert.model.config import BertConfig, count_parameters
from minbert.model.encoder import BertEncoder
from tests.hostile import (
    NEAR_THE_LIMIT,
    answer,
    changed,
    check_line,
    damaged,
    examples,
    nested,
    safetensors_bytes,
    sparse,
)
from tests.minbert.peers import encoder_tensors, sizes

CONFIG = sizes(4, 1, 2, 6, 8, 5)
VALUES = {"model_type": "bert", **asdict(CONFIG)}
WORDS = "embeddings.word_embeddings.weight"


def weights():
    """An encoder's weights under the names of the format."""
    model = BertClassifier(CONFIG, 2, pooling="pooler", dropout=0.0)
    initialise(model, 0)
    return encoder_tensors(model)


@pytest.fixture
def folder(tmp_path):
    """A checkpoint, whole and small."""
    made = tmp_path / "checkpoint"
    made.mkdir()
    (made / "config.json").write_text(json.dumps(VALUES))
    (made / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "good"]))
    save_file(weights(), made / "model.safetensors")
    return made


def load(folder, config=CONFIG):
    encoder = BertEncoder(config)
    load_encoder(encoder, folder)
    return encoder


def refused(folder, config=CONFIG):
    with pytest.raises(InputError) as caught:
        load(folder, config)
    check_line(str(caught.value), folder)
    return str(caught.value)


@examples(120)
@given(
    content=changed(VALUES).map(json.dumps).map(str.encode) | damaged(json.dumps(VALUES).encode())
)
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


def test_nesting_of_any_depth_and_gigabytes_are_refused(folder):
    path = folder / "config.json"
    for depth in (*NEAR_THE_LIMIT[::3], 10_000, 200_000):
        for text in (nested(depth), json.dumps(VALUES)[:-1] + f', "is_decoder": {nested(depth)}}}'):
            path.write_text(text)
            assert answer(lambda: BertConfig.from_folder(folder), InputError, path) is None
    sparse(path, 2**36)
    assert answer(lambda: BertConfig.from_folder(folder), InputError, path) is None


@examples(80)
@given(data_of=changed({WORDS: {"dtype": "F32", "shape": [8, 4], "data_offsets": [0, 128]}}))
def test_a_changed_header_is_right_or_refused(folder, data_of):
    save_file(weights(), folder / "model.safetensors")
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header, data = json.loads(whole[8 : 8 + length]), whole[8 + length :]
    place = header[WORDS]["data_offsets"]
    if isinstance(data_of, dict):
        mine = data_of.get(WORDS)
        if isinstance(mine, dict) and mine.get("data_offsets") == [0, 128]:
            mine["data_offsets"] = place
        data_of = {**{k: v for k, v in header.items() if k != WORDS}, **data_of}
    path.write_bytes(safetensors_bytes(json.dumps(data_of), data))
    found = answer(lambda: load(folder), InputError, path)
    if found is not None:
        expected = np.frombuffer(data[place[0] : place[1]], np.float32).reshape(8, 4)
        assert np.array_equal(found.embeddings.word_embeddings.weight.detach(), expected)


@pytest.mark.parametrize(("dtype", "width"), [("F8_E5M2", 1), ("F4", 0.5), ("BF16", 2)])
def test_numbers_that_need_a_scale_are_refused(folder, dtype, width):
    header, end = {}, 0
    for name, tensor in weights().items():
        begin, end = end, end + int(tensor.numel() * width)
        shape = list(tensor.shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}
    content = safetensors_bytes(json.dumps(header), bytes(end))
    (folder / "model.safetensors").write_bytes(content)
    if dtype == "BF16":
        assert not load(folder).embeddings.word_embeddings.weight.any()
    else:
        refused(folder)


class Calls:
    """Its pickle, once loaded by a careless reader, calls a function."""

    def __init__(self, function, *arguments):
        self.called = (function, arguments)

    def __reduce__(self):
        return self.called


def save(folder, content, new=True):
    (folder / "model.safetensors").unlink(missing_ok=True)
    torch.save(content, folder / "pytorch_model.bin", _use_new_zipfile_serialization=new)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (os.mkdir, ("{}",)),
        (eval, ("open('{}', 'w')",)),
        (functools.partial, (os.mkdir, "{}")),
    ],
)
def test_a_pickle_that_calls_anything_is_refused_uncalled(folder, function, arguments, new):
    sign = folder / "executed"
    filled = [a.format(sign) if isinstance(a, str) else a for a in arguments]
    hostile = {**weights(), "more": Calls(function, *filled)}
    save(folder, hostile, new)
    assert "tensors" in refused(folder)
    assert not sign.exists()


@pytest.mark.parametrize(
    ("what", "make"),
    [
        ("sparse", lambda: torch.zeros(8, 4).to_sparse()),
        ("meta", lambda: torch.zeros(8, 4, device="meta")),
        ("quantized", lambda: torch.quantize_per_tensor(torch.zeros(8, 4), 0.1, 0, torch.quint8)),
        ("nested", lambda: torch.nested.nested_tensor([torch.zeros(2, 4), torch.zeros(3, 4)])),
        ("list", lambda: [torch.zeros(8, 4)]),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_plain_tensor_is_refused(folder, what, make):
    for new in (True, False):
        try:
            save(folder, {**weights(), WORDS: make()}, new)
        except (RuntimeError, NotImplementedError):
            continue  # torch can't write it in this format
        refused(folder)


@pytest.mark.parametrize("new", [True, False], ids=["zip", "old"])
def test_a_few_bytes_that_claim_to_be_gigabytes_are_refused(folder, new):
    large = replace(CONFIG, vocab_size=2**24)
    save(folder, {**weights(), WORDS: torch.zeros(1).expand(2**24, 4)}, new)
    assert (folder / "pytorch_model.bin").stat().st_size < 100_000
    assert "bytes of numbers" in refused(folder, large)


def test_a_packed_file_is_refused_packed(folder):
    save(folder, weights())
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content + bytes(10**8 if name.endswith(".pkl") else 0))
    assert path.stat().st_size < 10**6
    assert "is packed" in refused(folder)


@pytest.mark.parametrize("kind", ["zip", "old", "safetensors"])
@examples(40)
@given(data=damaged(b"\0" * 4000))
def test_a_damaged_file_loads_or_is_refused(folder, kind, data):
    """The damage that was done to zeros is done to the file: a mask says where."""
    save(folder, weights(), kind == "zip")
    path = folder / "pytorch_model.bin"
    if kind == "safetensors":
        path = folder / "model.safetensors"
        save_file(weights(), path)
    content = bytearray(path.read_bytes())
    for place, value in enumerate(data[: len(content)]):
        if value:
            content[place] = value
    path.write_bytes(content[: len(data) + len(content) - 4000])
    answer(lambda: load(folder), InputError, path)


def test_weights_that_are_no_numbers_are_refused_before_the_first_cell(folder):
    request = {"checkpoint": str(folder)}
    assert list(check.answers_to(request)) == ["loaded"]
    for value in (float("nan"), float("inf")):
        named = weights()
        named[WORDS][3, 2] = value
        save_file(named, folder / "model.safetensors")
        with pytest.raises(InputError, match=f"{WORDS} holds NaN or infinite numbers"):
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
