"""Gradual unfreezing, by quarters from the top."""

import pytest

from adapters.injection import inject
from minbert.model.classifier import BertClassifier, initialise, place_of
from minbert.training.schedules import layers_in
from minbert.training.trainer import GradualUnfreezing
from tests.minbert.peers import sizes


def model(layers=12, mode="full", pooling="pooler"):
    found = BertClassifier(sizes(8, layers, 2, 16, 20, 8), 2, pooling=pooling, dropout=0.0)
    initialise(found, 0)
    adapted = mode != "full"
    inject(
        found, mode=mode, layers="all-lin-only" if adapted else None, rank=1 if adapted else None,
        alpha=1.0, new_pooler=False, seed=0,
    )  # fmt: skip
    return found


def places(of):
    return {name: place_of(name) for name, _ in of.named_parameters()}


def training(of):
    return (name for name, parameter in of.named_parameters() if parameter.requires_grad)


def layers_training(of):
    return {int(name.split(".")[3]) for name in training(of) if ".layer." in name}


def test_twelve_layers_unfreeze_by_threes_as_in_the_paper():
    assert [layers_in(epoch, 12) for epoch in range(7)] == [0, 3, 6, 9, 12, 12, 12]
    assert [layers_in(epoch, 6) for epoch in range(5)] == [0, 2, 3, 4, 6]
    assert [layers_in(epoch, 3) for epoch in range(5)] == [0, 1, 2, 2, 3]
    assert [layers_in(epoch, 2) for epoch in range(5)] == [0, 0, 1, 2, 2]
    assert [layers_in(epoch, 1) for epoch in range(5)] == [0, 0, 0, 1, 1]
    for layers in range(1, 25):
        counts = [layers_in(epoch, layers) for epoch in range(5)]
        assert all(abs(count - layers * n / 4) <= 0.5 for n, count in enumerate(counts))


@pytest.mark.parametrize("mode", ["full", "lora"])
@pytest.mark.parametrize("layers", [1, 3, 12])
def test_from_the_top_and_the_head_from_the_first_epoch(layers, mode):
    of = model(layers, mode)
    before = set(training(of))
    unfreezing = GradualUnfreezing(of, places(of))
    for epoch in range(6):
        unfreezing.begin(epoch)
        assert layers_training(of) == set(range(layers - layers_in(epoch, layers), layers))
        assert {"classifier.weight", "classifier.bias"} <= set(training(of))
        assert set(training(of)) <= before
        last = {name for name in training(of) if ".embeddings." in name or ".pooler." in name}
        assert bool(last) == (epoch >= 4 and mode == "full")
    assert set(training(of)) == before


def test_a_new_pooler_trains_from_the_first_epoch():
    of = model()
    names = frozenset(name for name, _ in of.named_parameters() if ".pooler." in name)
    unfreezing = GradualUnfreezing(
        of, {n: place_of(n) for n in dict(of.named_parameters()) if n not in names}
    )
    unfreezing.begin(0)
    assert names <= set(training(of))
