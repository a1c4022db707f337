"""A GPU for the tests here, which `tests/gpu/test_fake.py` starts in a process of their own."""

import ctypes
import gc
import os

import pytest

if GUARD := os.environ.get("MINBERT_BENCH_FAKE_GPU"):  # before torch looks for devices, once
    ctypes.CDLL(GUARD, mode=ctypes.RTLD_GLOBAL)


@pytest.fixture(scope="session", autouse=True)
def gpu():
    """A GPU to torch, where it has none."""
    from tests.gpu.fake.gpu import stand_in  # once the library is loaded

    gc.disable()  # searches for garbage among fake tensors take an eighth of the time
    with pytest.MonkeyPatch.context() as patch:
        if GUARD:
            stand_in(patch)
        yield
