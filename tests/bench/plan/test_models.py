"""A grid on a checkpoint from the Hugging Face hub, against a stand-in for it on this machine."""

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.bench.grids import GridRuns
from tests.components import need
from tests.minbert.stand_in_hub import Hub, serve


@pytest.fixture
def hub(tiny_checkpoint, tmp_path, monkeypatch):
    """A hub that the library takes for the real one, with one model at a tag."""
    need(find_spec("huggingface_hub") is not None, "huggingface_hub", component="transformers")
    files = {path.name: path.read_bytes() for path in tiny_checkpoint.iterdir()}
    with serve(Hub({"user/tiny": {"main": {}, "v1": files}})) as served:
        monkeypatch.setenv("HF_ENDPOINT", served.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
        yield served


@pytest.mark.usefixtures("hub")
def test_a_grid_is_planned_on_a_checkpoint_from_the_hub(tmp_path):
    """The training of a model in a folder is in tests/bench/grid."""
    grid = GridRuns(tmp_path, Path("user/tiny@v1"))
    done = grid.run_apart("--select", "mode=head amp=off", "--dry-run", "--json")
    assert done.returncode == 0, done.stderr
    assert '"model": "user/tiny@v1"' in done.stdout
