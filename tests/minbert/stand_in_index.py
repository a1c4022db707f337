"""A package index on this machine, with one archive, that can be slow, broken or lying."""

import hashlib
import io
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler

from minbert.assets.cache import Asset
from tests.minbert.stand_in_hub import answering

FILES = {"one.txt": b"first\n" * 20_000, "two.bin": bytes(range(256)) * 500}


def wheel() -> bytes:
    """A zip archive with the files in `toy/model/`, and others that nobody asked for."""
    files = {f"toy/model/{name}": content for name, content in FILES.items()}
    files["../outside.txt"] = b"must not be written"
    files["toy/setup.py"] = b"raise SystemExit('must not be run')"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # dated 1980: every time the same
    return buffer.getvalue()


def _tar(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def nested_sdist() -> bytes:
    """A tar archive that holds another, which holds the files in `data/`."""
    inner = _tar({f"data/{name}": content for name, content in FILES.items()})
    return _tar({"toy-1.0/setup.py": b"raise SystemExit", "toy-1.0/inner.tar.gz": inner})


def toy_asset(content: bytes, filename: str, folder: str, inside: tuple[str, ...] = ()) -> Asset:
    """An asset whose pins are those of an archive."""
    return Asset(
        name="toy", about="a toy", licence="none", project="toy", archive=filename,
        archive_size=len(content), archive_sha256=sha256(content), inside=inside, folder=folder,
        files={name: sha256(data) for name, data in FILES.items()},
        size=sum(map(len, FILES.values())),
    )  # fmt: skip


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@dataclass
class Index:
    """The files that the index serves, and the requests it got."""

    filename: str
    content: bytes
    advertised: str | None = None
    chunk_delay_s: float = 0.0
    drops: int = 0
    redirects: bool = False
    url: str = ""
    downloads: int = 0
    missing: bool = False
    started: threading.Event = field(default_factory=threading.Event)


@contextmanager
def serving(index: Index) -> Iterator[Index]:
    """Serve the index on a free port of this machine while the block runs."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/simple/toy/":
                fragment = f"#sha256={index.advertised}" if index.advertised else ""
                link = f'<a href="/files/{index.filename}{fragment}">{index.filename}</a>'
                self._send(200, {"Content-Type": "text/html"}, link.encode())
            elif self.path == f"/files/{index.filename}" and index.redirects:
                self._send(302, {"Location": f"/moved/{index.filename}"})
            elif self.path.endswith(f"/{index.filename}") and not index.missing:
                self._send_file()
            else:
                self.send_error(404)

        def _send(self, status: int, headers: dict[str, str], content: bytes = b"") -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(content))} | headers).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def _send_file(self) -> None:
            index.downloads += 1
            self._send(200, {"Content-Length": str(len(index.content))})
            dropped = index.downloads <= index.drops
            for start in range(0, len(index.content), 8192):
                self.wfile.write(index.content[start : start + 8192])
                index.started.set()
                if dropped:
                    break
                time.sleep(index.chunk_delay_s)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    with answering(Handler) as url:
        index.url = f"{url}/simple"
        yield index
