"""Fixtures of the tests of ensembles and updates."""

import json

import pytest

from tests.bench.ensembles import Place


@pytest.fixture
def place(tmp_path):
    return Place(tmp_path)


@pytest.fixture
def answer(place, capsys):
    """The JSON of the command for some arguments, which has to end with a code."""

    def run(*arguments, code=0):
        assert place.run(*arguments, "--json") == code
        return json.loads(capsys.readouterr().out)

    return run
