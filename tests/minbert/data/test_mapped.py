"""Files of arrays that processes map: what was written is read, and nothing else is."""

import json
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file

from minbert.data import mapped
from tests.hostile import changed, damaged, examples

ARRAYS = {
    "ids": np.arange(300, dtype=np.int32),
    "kinds": np.array([0, 1, 1], dtype=np.int8),
    "offsets": np.array([[0, 2], [3, 4]], dtype=np.int64),
    "labels": np.array([0.5, -1.25]),
    "nothing": np.empty(0, dtype=np.int8),
}
NOTES = {"of": "some data", "also": "ü"}
WHOLE = mapped.to_bytes(ARRAYS, NOTES)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("mapped") / "arrays.safetensors"


def check_read(file):
    """Fail unless a file gives the arrays and notes that were written."""
    arrays, notes = mapped.read(file)
    assert notes == NOTES
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        assert array.dtype == ARRAYS[name].dtype
        np.testing.assert_array_equal(array, ARRAYS[name])


def test_what_was_written_is_read_as_views_that_cant_be_written_to(file):
    file.write_bytes(WHOLE)
    check_read(file)
    arrays, _ = mapped.read(file)
    maps = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    lines = [line for line in maps if line.endswith(file.name)]
    assert len(lines) == 1
    begin, end = (int(place, 16) for place in lines[0].split()[0].split("-"))
    assert begin < arrays["ids"].ctypes.data < end
    with pytest.raises(ValueError, match="read-only"):
        arrays["ids"][0] = 1
    for name, array in load_file(file).items():
        np.testing.assert_array_equal(array, ARRAYS[name])


FLIPPED = st.integers(0, len(WHOLE) - 1).map(
    lambda at: WHOLE[:at] + bytes([WHOLE[at] ^ 1]) + WHOLE[at + 1 :]
)


@examples(300)
@given(content=damaged(WHOLE) | FLIPPED | st.binary(max_size=200))
def test_nothing_else_than_a_value_error_comes_of_damage(file, content):
    file.write_bytes(content)
    with suppress(ValueError):  # unless JSON passes over it, as over a space in the header
        check_read(file)


LENGTH = int.from_bytes(WHOLE[:8], "little")
HEADERS = changed(json.loads(WHOLE[8 : 8 + LENGTH])).map(lambda values: json.dumps(values).encode())


@examples(300)
@given(header=HEADERS | st.just(b"[" * 60_000))
def test_a_changed_header_is_refused_or_says_the_same(file, header):
    file.write_bytes(len(header).to_bytes(8, "little") + header + WHOLE[8 + LENGTH :])
    with suppress(ValueError):
        check_read(file)
