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
    """Models by name, and data sets by `datasets/` and theirs, each with its files by revision; and
    what was asked, in order."""

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

    def files(self, model: str, revision: str) -> tuple[str, Files] | None:
        """The commit and the files at a revision: a branch's or tag's name, or a commit's."""
        for name, files in self.models.get(model, {}).items():
            if revision in (name, commit_of(files)):
                return commit_of(files), files
        return None


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
            if re.fullmatch(r"/api/.+/tree/[^/]+/.+", path):  # no folder is listed by itself
                return self._answer(404, error="EntryNotFound")
            found = re.fullmatch(r"/api/(?:models/)?(.+?)(?:/(revision|tree)/([^/]+))?", path)
            if found:
                return self._api(found[1], found[2], found[3] or "main")
            found = re.fullmatch(r"/(.+?)/resolve/([^/]+)/(.+)", path)
            return self._resolve(*found.groups()) if found else self._answer(404)

        def _look_up(self, model: str, revision: str) -> tuple[str, Files] | None:
            if model not in hub.models:
                self._answer(401, error="RepoNotFound")
            elif (at := hub.files(model, revision)) is None:
                self._answer(404, error="RevisionNotFound")
            else:
                return at
            return None

        def _api(self, model: str, kind: str | None, revision: str) -> None:
            if (at := self._look_up(model, revision)) is None:
                return
            commit, files = at
            answer: object = {"id": model, "sha": commit, "siblings": []}
            if kind == "tree":
                answer = [
                    {"type": "file", "path": name, "size": len(content), "oid": commit}
                    for name, content in files.items()
                ]
            self._answer(200, json.dumps(answer).encode())

        def _resolve(self, model: str, revision: str, name: str) -> None:
            if model in hub.gated:
                return self._answer(403, error="GatedRepo")
            if (at := self._look_up(model, revision)) is None:
                return None
            commit, files = at
            if name not in files:
                return self._answer(404, error="EntryNotFound")
            return self._answer(200, files[name], commit=commit, half=name in hub.broken)

        def _answer(
            self,
            status: int,
            body: bytes = b"",
            *,
            error: str | None = None,
            commit: str | None = None,
            half: bool = False,
        ) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            if error is not None:
                self.send_header("X-Error-Code", error)
            if commit is not None:
                digest = hashlib.sha1(body, usedforsecurity=False).hexdigest()
                self.send_header("X-Repo-Commit", commit)
                self.send_header("ETag", f'"{digest}"')
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body[: len(body) // 2] if half else body)

    with answering(Handler) as hub.url:
        yield hub


def ask_apart(code: str, url: str, home: Path, *words: str, **environment: str) -> Any:
    """What some code prints as JSON, and nothing else, in a process of its own: the hub's library
    reads its address when it is imported."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "HUGGING"))}
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**inherited, "HF_ENDPOINT": url, "HF_HOME": str(home), **environment},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)
