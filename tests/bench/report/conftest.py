"""Reports without pictures, whose drawing takes most of their time; `drawn` is for tests that look
at them, and so are fixtures of a whole module."""

import pytest

from tests.bench.conftest import skip_drawing


@pytest.fixture
def drawn():
    """Figures are drawn."""


@pytest.fixture(autouse=True)
def _usually_undrawn(request):
    with pytest.MonkeyPatch.context() as patch:
        if "drawn" not in request.fixturenames:
            skip_drawing(patch)
        yield
