"""Cells that learn tags of words, in both engines, against plain scripts around transformers."""

from dataclasses import replace
from functools import partial
from itertools import pairwise, product

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from tokenizers.pre_tokenizers import ByteLevel

from bench.examples import tokens
from bench.examples.tokens import tokenizer_of
from bench.plan.cell import MINBERT
from bench.worker.process import Progress
from bench.worker.run import CellRun
from minbert.data.problems import TOKEN_CLASSIFICATION
from minbert.data.tasks import Examples, Task, TaskData
from minbert.data.tasks.prepared import Prepared, write
from minbert.data.words import entity_f1, padded
from tests.bench.tiny_cells import ended
from tests.encoders import KINDS, job
from tests.experiments.encoders_table import ours

CLASSES = ("O", "B-film", "I-film", "B-person", "I-person")
WORDS = ("a", "good", "film", "about", "nothing", "unforgettable", "actors", "\u200b", ".")


def examples(seed, count):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 14, count)
    texts = [" ".join(rng.choice(WORDS, length)) for length in lengths]
    tags = padded([rng.choice(5, length, p=(0.6, 0.1, 0.1, 0.1, 0.1)) for length in lengths])
    return Examples(tuple(f"good {text}" for text in texts), None, np.insert(tags, 0, 0, axis=1))


TASK = Task("films", CLASSES, problem_name=TOKEN_CLASSIFICATION.name, is_own=True)
DATA = TaskData(TASK, examples(0, 48), examples(1, 20))


@pytest.fixture
def words(tmp_path):
    prepared = Prepared("films", TOKEN_CLASSIFICATION.name, CLASSES, DATA.digest)
    return write(tmp_path / "data", prepared, DATA)


def job_on(words, checkpoint, mode="full", layers=None, **changes):
    values = {"task": "films", "data_digest": DATA.digest[:16], "batch_size": 8, "max_dev": None}
    return replace(job(checkpoint, mode, layers, **values | changes), data=str(words))


def plain_examples(tokenizer, length):
    """Token ids of texts, and at the first token of each word its tag."""
    for text, tags in zip(DATA.train.text_a, DATA.train.labels, strict=True):
        words = text.split(" ")
        encoded = tokenizer(words, is_split_into_words=True, truncation=True, max_length=length)
        of = encoded.word_ids()
        is_first = [word is not None and word not in of[:at] for at, word in enumerate(of)]
        wanted = [int(tags[w]) if first else -100 for w, first in zip(of, is_first, strict=True)]
        yield {"input_ids": encoded["input_ids"], "labels": wanted}


def plain_loss(run, checkpoint):
    """The loss of all examples by transformers alone, with the weights that a run begins with."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint)
    if isinstance(tokenizer.backend_tokenizer.pre_tokenizer, ByteLevel):
        tokenizer.backend_tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    model = transformers.AutoModelForTokenClassification.from_pretrained(
        checkpoint, num_labels=len(CLASSES), attn_implementation=run.cell.attn_implementation
    ).eval()
    model.load_state_dict(vars(run.engine.build(run.job))["model_of_library"].state_dict())
    every = [*plain_examples(tokenizer, run.cell.max_length)]
    return model(**transformers.DataCollatorForTokenClassification(tokenizer)(every)).loss.item()


@pytest.mark.parametrize(("kind", "stride"), [*product(KINDS, [0]), ("roberta", 1), ("electra", 5)])
def test_losses_are_those_of_a_plain_script(words, encoders, kind, stride, tmp_path):
    """Of whole texts; of windows in both engines, as in the script of an exported folder."""
    whole = {"epochs": 1, "max_length": 24, "batch_size": 48}
    changes = {"epochs": 2, "max_length": 10, "window_stride": stride} if stride else whole
    theirs = job_on(words, encoders(kind), **changes)
    run = ended(theirs, tmp_path / "theirs")
    losses = [*map(float, run.losses)]
    assert run.columns["products_ms"] > 0
    if not stride:
        assert losses == pytest.approx([plain_loss(run, encoders(kind))], abs=2e-5)
        return
    assert len(losses) == 2 * -(-len(run.train[""]) // 8)
    assert len(run.train[""]) > len(DATA.train) == len(run.train[""].labels)
    own = ended(ours(theirs), tmp_path / "ours")
    np.testing.assert_allclose([*map(float, own.losses)], losses, rtol=0, atol=1e-5)
    assert own.columns["dev_score"] == run.columns["dev_score"]
    assert (own.columns["texts_cut"], own.columns["tokens_cut"]) == (0, 0)


def test_each_word_is_read_once_in_the_window_with_most_around_it(words, encoders, tmp_path):
    of = ours(job_on(words, encoders("bert"), epochs=1, max_length=10, window_stride=4))
    run = ended(of, tmp_path / "cell")
    encoded = tokens.read(of.cell, encoders("bert"), words)[""][1].encoded  # from its file
    assert encoded.lengths.max() == 10
    whole = tokenizer_of(MINBERT, encoders("bert")).encode(DATA.dev.text_a, None, 99, by_word=True)
    for text in range(len(DATA.dev)):
        windows = np.flatnonzero(encoded.text_of == text)
        places = [slice(*encoded.offsets[n : n + 2]) for n in windows]
        ids = [encoded.input_ids[place][1:-1] for place in places]
        for one, other in pairwise(ids):
            np.testing.assert_array_equal(one[-4:], other[:4])
        begin, end = whole.offsets[text : text + 2]
        joined = [*ids[0], *(token for window in ids[1:] for token in window[4:])]
        assert joined == whole.input_ids[begin + 1 : end - 1].tolist()
        read = np.concatenate([encoded.words[place] for place in places])
        expected = whole.words[begin:end]
        assert sorted(read[read >= 0]) == expected[expected >= 0].tolist()
    kept = load_file(tmp_path / "cell" / "predictions.safetensors")["logits"]
    no_tokens = [word == "\u200b" for text in DATA.dev.text_a for word in text.split(" ")]
    np.testing.assert_array_equal(~kept.any(axis=1), no_tokens)
    run.model.eval()
    [text, *_] = np.flatnonzero(np.bincount(encoded.text_of) > 1)
    first = int((DATA.dev.labels[:text] >= 0).sum())
    for window in np.flatnonzero(encoded.text_of == text):
        place = slice(*encoded.offsets[window : window + 2])
        with torch.no_grad():
            logits = run.model(torch.tensor(encoded.input_ids[place][None].astype(np.int64)))[0]
        numbers, begins = encoded.words[place], encoded.words[place] >= 0
        own = kept[first + numbers[begins]]
        np.testing.assert_allclose(own, logits[begins], atol=1e-5, rtol=0)
    [note] = [n for n in tokens.cut_notes(DATA, of.cell, encoders("bert"), words) if "windows" in n]
    sides = tokens.read(of.cell, encoders("bert"), words)[""]
    several = np.concatenate([np.bincount(side.encoded.text_of) for side in sides])
    several = several[several > 1]
    assert note == f"{len(several)} texts are read in {several.sum()} windows of max_length 10"


def test_windows_of_a_text_are_held_out_together(words, encoders, tmp_path):
    of = ours(job_on(words, encoders("bert"), epochs=1, max_length=10, held_out=0.25))
    windows = replace(of, cell=replace(of.cell, window_stride=4))
    run = CellRun(windows, tmp_path, Progress(None))
    run._tokenise()
    rest, held = run.train[""], run.held_out[""]
    assert (len(rest.labels), len(held.labels)) == (36, 12)
    for side in (rest, held):
        assert {*side.texts[0].text_of} == {*range(len(side.labels))}
        assert (side.texts[0].words >= 0).sum() == (side.labels >= 0).sum() - sum(
            text.split(" ").count("\u200b")
            for at, text in enumerate(DATA.train.text_a)
            if (at in run.held_out_indices[""]) == (side is held)
        )
    long = [replace(of, cell=replace(of.cell, max_length=64, window_stride=n)) for n in (0, 8)]
    losses = [[*map(float, ended(j, tmp_path / str(n)).losses)] for n, j in enumerate(long)]
    assert losses[0] == losses[1]


def test_a_cell_keeps_predictions_of_words_and_scores_entities(words, encoders, tmp_path):
    of = ours(job_on(words, encoders("bert"), epochs=12, held_out=0.25, early_stopping=2,
                     amp="bf16", dropout=0.1, max_length=12))  # fmt: skip
    run = ended(of, tmp_path / "cell")
    kept = load_file(tmp_path / "cell" / "predictions.safetensors")
    np.testing.assert_array_equal(kept["labels"], DATA.dev.labels)
    assert kept["labels"].dtype == np.int16
    assert kept["logits"].shape == (DATA.dev.words, len(CLASSES))
    no_tokens = np.array(" ".join(DATA.dev.text_a).split(" ")) == "\u200b"
    assert no_tokens.any()
    assert not kept["logits"][no_tokens].any(), "a word without tokens has no logits"
    lost = ~kept["logits"].any(axis=1)
    assert lost.sum() > no_tokens.sum(), "max_length cuts some"
    guess = DATA.dev.labels.copy()
    guess[guess >= 0] = kept["logits"].argmax(axis=1)
    assert run.columns["dev_metric"] == "entity_f1"
    assert run.columns["dev_score"] == entity_f1(DATA.dev.labels, guess)
    sides = tokens.make(DATA, of.cell, encoders("bert"), words)
    assert sides[""][1].words_lost == lost.sum()
    [note] = [n for n in tokens.cut_notes(DATA, of.cell, encoders("bert"), words) if "words" in n]
    assert note == f"{lost.sum()} words of dev are cut or without a token, and count as predicted O"
    assert len(run.train[""]) == 36


def test_compiled_code_learns_the_same(words, encoders, monkeypatch, tmp_path):
    """RoBERTa's positions begin elsewhere than BERT's."""
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    of = ours(job_on(words, encoders("roberta", num_hidden_layers=1), max_length=32, batch_size=24))
    sides = (replace(of, cell=replace(of.cell, compile=value)) for value in ("off", "on"))
    losses = [ended(side, tmp_path / side.cell.compile).losses for side in sides]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
