"""A stand-in for the Hugging Face hub: what `huggingface_hub` asks of it, on 127.0.0.1."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

Files = Mapping[str, bytes]


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: object) -> None:
        """A client that was killed is no error here."""


@contextmanager
def answering(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """The address of a server on a free port of this machine, while the block runs."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def commit_of(files: Files) -> str:
    """A commit's name: 40 hexadecimal digits."""
    return hashlib.sha1(repr(sorted(files.items())).encode(), usedforsecurity=False).hexdigest()


@dataclass
class Hub:
    """Files by revision of models, by name, and data sets, by `datasets/NAME`; what was asked."""

    models: Mapping[str, Mapping[str, Files]]
    gated: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()
    """Files of which the connection gives only half."""

    asked: list[str] = field(default_factory=list)
    url: str = ""

    def fetched(self) -> set[str]:
        """Names of the files whose contents were asked for."""
        gets = (path for path in self.asked if path.startswith("GET ") and "/resolve/" in path)
        return {path.rpartition("/")[2] for path in gets}

    def files(self, model: str, revision: str) -> tuple[str, Files]:
        """The commit and the files at a revision: a branch's or tag's name, or a commit's.
        LookupError with the hub's name for what is missing."""
        if model not in self.models:
            raise LookupError("RepoNotFound")
        for name, files in self.models[model].items():
            if revision in (name, commit_of(files)):
                return commit_of(files), files
        raise LookupError("RevisionNotFound")


_STATUS = {"GatedRepo": 403, "RepoNotFound": 401}
"""Of what is refused; of all else it is 404."""


@contextmanager
def serve(hub: Hub) -> Iterator[Hub]:
    """Serve a hub until the block ends; its address is in `hub.url`."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            hub.asked.append(f"{self.command} {path}")
            try:
                status, (body, headers) = 200, self._content(path)
            except LookupError as refusal:
                body, headers = b"", {"X-Error-Code": str(refusal)}
                status = _STATUS.get(str(refusal), 404)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                is_half = "/resolve/" in path and path.rpartition("/")[2] in hub.broken
                self.wfile.write(body[: len(body) // 2] if is_half else body)

        def _content(self, path: str) -> tuple[bytes, dict[str, str]]:
            """What is at a path, and headers. LookupError as of `Hub.files`."""
            if re.fullmatch(r"/api/.+/tree/[^/]+/.+", path):  # no folder is listed by itself
                raise LookupError("EntryNotFound")
            if api := re.fullmatch(r"/api/(?:models/)?(.+?)(?:/(revision|tree)/([^/]+))?", path):
                commit, files = hub.files(api[1], api[3] or "main")
                answer: object = {"id": api[1], "sha": commit, "siblings": []}
                if api[2] == "tree":
                    answer = [
                        {"type": "file", "path": name, "size": len(content), "oid": commit}
                        for name, content in files.items()
                    ]
                return json.dumps(answer).encode(), {}
            if not (file := re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path)):
                raise LookupError
            if file[1] in hub.gated:
                raise LookupError("GatedRepo")
            commit, files = hub.files(file[1], file[2])
            if file[3] not in files:
                raise LookupError("EntryNotFound")
            digest = hashlib.sha1(files[file[3]], usedforsecurity=False).hexdigest()
            return files[file[3]], {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}

    with answering(Handler) as hub.url:
        yield hub


def ask_apart(code: str, url: str, home: Path, *words: str, **environment: str) -> Any:
    """What code prints as JSON, in a new process: the hub's library reads its address on import."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**inherited, "HF_ENDPOINT": url, "HF_HOME": str(home), **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)
