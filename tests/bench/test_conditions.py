"""Conditions are found without torch; devices are resolved from what the driver shows."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest

from bench.conditions import (
    MEASURING,
    RUN_BY_WORKERS,
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
from tests.test_rooms import FOR_TYPES, files, imports

ROOT = Path(__file__).parents[2]

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


class Checkout:
    """A temporary git repository with the files whose version is asked for, and others."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in (*MEASURING, "README.md", "bench/report/x.py", "tests/x.py"):
            self.write(f"{name}/x.py" if "." not in Path(name).name else name, "1\n")

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def git(self, *arguments: str) -> str:
        who = ("-c", "user.name=t", "-c", "user.email=t@example.org")
        done = subprocess.run(
            ["git", *who, *arguments],  # noqa: S607
            cwd=self.folder,
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout.strip()

    def commit(self) -> str:
        self.git("add", ".")
        self.git("commit", "--quiet", "--message", "a change")
        return self.git("rev-parse", "HEAD")[:10]

    @property
    def version(self) -> str:
        return code_version(self.folder)


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    made = Checkout(tmp_path)
    made.git("init", "--quiet")
    return made


def test_outside_a_checkout_it_is_the_packages_version(tmp_path: Path, checkout: Checkout) -> None:
    assert checkout.version == metadata.version("minbert-bench"), "nothing is committed"
    shutil.rmtree(tmp_path / ".git")
    assert checkout.version == metadata.version("minbert-bench")


@pytest.mark.parametrize("name", ["README.md", "bench/report/x.py", "tests/x.py", "runs.csv"])
def test_a_commit_to_what_measures_nothing_is_no_other_version(
    checkout: Checkout, name: str
) -> None:
    first = checkout.commit()
    version = checkout.version
    assert version == f"{metadata.version('minbert-bench')}+g{first}"
    checkout.write(name, "2\n")
    assert checkout.version == version
    checkout.commit()
    assert checkout.version == version
    checkout.git("config", "core.abbrev", "40")
    assert checkout.version == version, "whatever git abbreviates to"


@pytest.mark.parametrize("name", ["bench/worker/x.py", "minbert/new.py", "bench/results.py"])
def test_a_change_of_what_measures_is_another_version(checkout: Checkout, name: str) -> None:
    first = checkout.commit()
    clean = checkout.version
    dirty = []
    for text in ("2\n", "3\n"):
        checkout.write(name, text)
        dirty.append(checkout.version)
        assert dirty[-1].startswith(f"{clean}-dirty.")
        assert checkout.version == dirty[-1]
    assert len(set(dirty)) == 2, "other changes are another version"
    second = checkout.commit()
    assert checkout.version == clean.replace(first, second)


_IMPORTED = """
import json, pkgutil, sys
import adapters, bench.probes, bench.worker, minbert
import bench.worker.__main__
from bench.worker.imports import import_all
import_all()
for package in (bench.probes, bench.worker):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        __import__(module.name)
ours = {"adapters", "bench", "minbert"}
print(json.dumps([m.__file__ for n, m in sys.modules.items() if n.partition(".")[0] in ours]))
"""


def test_the_version_is_of_all_that_a_worker_imports_and_of_little_else() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTED], capture_output=True, text=True, check=True
    )
    imported = {Path(name).relative_to(ROOT) for name in json.loads(done.stdout)}
    for module, path in files().items():
        if path.relative_to(ROOT) in imported:  # what it imports within functions, too
            used = (one for one in imports()[module] if one.when != FOR_TYPES)
            imported |= {files()[one.name].relative_to(ROOT) for one in used if one.name in files()}
    listed = set(map(Path, RUN_BY_WORKERS))
    covered = {path: {path, *path.parents} & listed for path in imported}
    assert {path for path, by in covered.items() if not by} == set(), "add it to RUN_BY_WORKERS"
    assert listed == set().union(*covered.values()), "it is imported no more"
    assert all((ROOT / name).exists() for name in MEASURING)
