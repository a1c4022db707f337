"""A tiny base, and folders that are exported from it, each once."""

from functools import cache

import pytest

from bench.export import check as checks
from tests.bench.export.small import answer_here, base_folder, exported, trained


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    return base_folder(tmp_path_factory.mktemp("export") / "small")


@pytest.fixture(scope="session")
def shallow(tmp_path_factory):
    """The same of one layer, for ONNX, whose export takes a second for each."""
    return base_folder(tmp_path_factory.mktemp("export") / "shallow", layers=1)


@pytest.fixture(scope="session")
def exports(base, shallow, tmp_path_factory):
    """From a format and settings as of `trained` to the cell and its folder, not to be changed."""

    @cache
    def export(name, **settings):
        cell = trained(shallow if name == "onnx" else base, **settings)
        return cell, exported(cell, name, tmp_path_factory.mktemp("exports") / name)

    return export


@pytest.fixture
def here(monkeypatch):
    monkeypatch.setattr(checks, "run_fresh", answer_here)
