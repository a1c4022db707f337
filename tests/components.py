"""What some tests need beside Python: the shared data, a browser. Absent, they skip and say why;
under `MINBERT_BENCH_REQUIRE_ALL=1`, as in CI, they fail instead."""

import os
import shutil
from pathlib import Path

import pytest

SHARED = Path(os.environ.get("MINBERT_BENCH_SHARED", Path(__file__).parents[2] / "shared"))
CS224N = SHARED / "data" / "cs224n"


def need(condition: bool, why: str) -> None:
    """Skip the test, or fail it where everything is required, unless the condition holds."""
    if condition:
        return
    if os.environ.get("MINBERT_BENCH_REQUIRE_ALL") == "1":
        pytest.fail(f"required here, but missing: {why}")
    pytest.skip(why)


def chromium() -> str | None:
    """The path of a Chromium or Chrome on this machine."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for name in names if (path := shutil.which(name))), None)
