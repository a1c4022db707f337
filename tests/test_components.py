"""Where CI requires a component, a test that lacks it fails instead of passing unseen."""

import pytest

from tests import components


@pytest.mark.parametrize(
    ("required", "component", "outcome"),
    [
        (set(), "shared", pytest.skip.Exception),
        (set(), None, pytest.skip.Exception),
        ({"chromium"}, "shared", pytest.skip.Exception),
        ({"chromium", "shared"}, "shared", pytest.fail.Exception),
        ({"chromium"}, None, pytest.fail.Exception),
        ({"chromium"}, "shard", ValueError),
    ],
)
def test_what_is_missing_skips_or_fails(monkeypatch, required, component, outcome):
    monkeypatch.setattr(components, "REQUIRED", required)
    with pytest.raises(outcome):
        components.need(False, "not there", component=component)
    components.need(True, "there", component=component)
    monkeypatch.setenv("MINBERT_BENCH_REQUIRE", "chromium,shard")
    with pytest.raises(ValueError, match="shard"):
        components._required()
