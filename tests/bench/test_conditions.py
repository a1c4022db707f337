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
    cpu_quota,
    find_conditions,
    nvml_cards,
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
    here = find_conditions("cpu").conditions
    assert replace(here, code_version="other").conditions_id == here.conditions_id
    assert replace(here, threads=99).conditions_id != here.conditions_id
    first = replace(here, device="cuda:0")
    assert replace(first, device="cuda:1").conditions_id == first.conditions_id
    assert first.conditions_id != here.conditions_id


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "150000 100000\n"}, 1),
        ({"cpu.max": "400000 100000\n"}, 4),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_a_quota_limits_the_cores(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cpu_quota(tmp_path) == cores


class FakeNvml:
    """A driver with two cards, as the module `pynvml` shows it."""

    class NVMLError(Exception):
        pass

    def __init__(self) -> None:
        self.nvmlInit = self.nvmlShutdown = lambda: None
        self.nvmlSystemGetDriverVersion = lambda: "550.1"
        self.nvmlDeviceGetCount = lambda: 2
        self.nvmlDeviceGetName = lambda handle: f"card {handle}"
        self.nvmlDeviceGetUUID = lambda handle: f"GPU-{handle}"
        self.nvmlDeviceGetCudaComputeCapability = lambda handle: (8, 0)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index > 1:
            raise self.NVMLError
        return index

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> int:  # noqa: N802
        if uuid != "GPU-one":
            raise self.NVMLError
        return 1


@pytest.mark.parametrize(
    ("visible", "names"),
    [
        (None, ["card 0", "card 1"]),
        ("1", ["card 1"]),
        ("1, 0", ["card 1", "card 0"]),
        ("GPU-one", ["card 1"]),
        ("", []),
        ("-1", []),
        ("0,7,1", ["card 0"]),
        ("GPU-other", []),
    ],
)
def test_cards_are_those_that_cuda_will_see(
    monkeypatch: pytest.MonkeyPatch, visible: str | None, names: list[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", FakeNvml())
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [card.name for card in nvml_cards()] == names


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
