"""Conditions are found without torch; devices are resolved from what the driver shows."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.conditions import (
    Card,
    amp_on,
    code_version,
    find_conditions,
    resolve_device,
    torch_build,
)
from bench.errors import InputError

A100 = Card("NVIDIA A100", "550.1", (8, 0))
T4 = Card("Tesla T4", "550.1", (7, 5))


def test_auto_takes_the_first_card_else_the_cpu() -> None:
    assert resolve_device("auto", "12.8", lambda: [A100]) == ("cuda:0", A100)
    assert resolve_device("auto", "12.8", list) == ("cpu", None)
    assert resolve_device("auto", None, lambda: [A100]) == ("cpu", None)
    assert resolve_device("cpu", "12.8", lambda: [A100]) == ("cpu", None)
    assert resolve_device("cuda:1", "12.8", lambda: [A100, T4]) == ("cuda:1", T4)


@pytest.mark.parametrize(
    ("wanted", "cuda", "told"),
    [
        ("cuda", None, "without CUDA"),
        ("cuda:2", "12.8", "shows 1 cards"),
        ("tpu", "12.8", "'tpu' is not"),
        ("cuda:x", "12.8", "'cuda:x' is not"),
        ("cpu:1", "12.8", "'cpu:1' is not"),
    ],
)
def test_a_device_that_is_not_there_is_one_line(wanted: str, cuda: str | None, told: str) -> None:
    with pytest.raises(InputError, match="--device") as caught:
        resolve_device(wanted, cuda, lambda: [A100])
    assert told in str(caught.value)


def test_amp_on_is_bf16_where_the_card_has_it() -> None:
    assert amp_on(None) == "bf16"
    assert amp_on(A100) == "bf16"
    assert amp_on(T4) == "fp16"


def test_identity_leaves_out_commit_and_card_number() -> None:
    here, _ = find_conditions("cpu")
    assert replace(here, code_version="other").conditions_id == here.conditions_id
    assert replace(here, threads=99).conditions_id != here.conditions_id
    first = replace(here, device="cuda:0")
    assert replace(first, device="cuda:1").conditions_id == first.conditions_id
    assert first.conditions_id != here.conditions_id


def test_build_read_from_files_agrees_with_torch() -> None:
    import torch

    version, cuda = torch_build()
    assert version == torch.__version__
    assert cuda == torch.version.cuda


def test_planning_imports_no_torch() -> None:
    code = "import bench.grid, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_dirty_means_that_the_code_differs_not_the_results(tmp_path: Path) -> None:
    def git(*arguments: str) -> None:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        subprocess.run(
            ["git", *who, *arguments],  # noqa: S607
            cwd=tmp_path,
            check=True,
            capture_output=True,
        )

    assert "+g" not in code_version(tmp_path)
    for name in ("bench", "minbert", "adapters"):
        (tmp_path / name).mkdir()
    code, results = tmp_path / "bench" / "x.py", tmp_path / "runs.csv"
    for file in (code, results, tmp_path / "pyproject.toml"):
        file.write_text("1\n")
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message", "first")
    results.write_text("1\n2\n")
    assert "+g" in code_version(tmp_path)
    assert not code_version(tmp_path).endswith("-dirty")
    code.write_text("2\n")
    assert code_version(tmp_path).endswith("-dirty")
