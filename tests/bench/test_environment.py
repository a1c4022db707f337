"""The environment of a worker."""

import pytest

from bench.environment import worker_environment

TUNABLES = "GLIBC_TUNABLES"


def test_threads_are_the_cells_and_the_rest_is_inherited() -> None:
    found = worker_environment({"HOME": "/x", "OMP_NUM_THREADS": "7"}, 2)
    assert found["HOME"] == "/x"
    assert found["OMP_NUM_THREADS"] == found["MKL_NUM_THREADS"] == "2"


@pytest.mark.parametrize(
    "name",
    ["NVIDIA_TF32_OVERRIDE", "ONEDNN_DEFAULT_FPMATH_MODE", "DNNL_MAX_CPU_ISA"],
)
def test_what_would_change_numbers_is_dropped(name: str) -> None:
    assert name not in worker_environment({name: "1"}, 1)


def test_the_allocator_keeps_memory_unless_a_user_tells_it_something() -> None:
    usual = worker_environment({}, 1)[TUNABLES]
    assert "glibc.malloc.trim_threshold" in usual
    of_users = "glibc.malloc.arena_max=1"
    assert worker_environment({TUNABLES: of_users}, 1)[TUNABLES] == of_users
    other = "glibc.cpu.x86_shstk=off"
    assert worker_environment({TUNABLES: other}, 1)[TUNABLES] == f"{other}:{usual}"
    assert TUNABLES not in worker_environment({}, 1, tuned=False)
