"""One pinned file from the package index that pip is configured for.

pip itself can't download it: given a source distribution, it runs the package's setup.py. `unearth`
finds files without building anything. This module passes pip's own configuration
(https://pip.pypa.io/en/stable/topics/configuration/) to it, downloads, and turns every failure into
one line.
"""

import ast
import hashlib
import logging
import os
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from minbert.errors import InputError

if TYPE_CHECKING:
    from unearth import Link

Progress = Callable[[int, int], None]
"""Called with the bytes done and their total."""

_ALIASES: Final = {"default-timeout": "timeout", "pypi-url": "index-url"}
_TRUE: Final = ("y", "yes", "t", "true", "on", "1")


@dataclass(frozen=True)
class PinnedFile:
    """A file of a release, known by its digest."""

    project: str
    version: str
    filename: str
    size: int
    sha256: str


def pip_settings() -> dict[str, str]:
    """Options that `pip install` would take from its files and from `PIP_…`, by long name.

    Where pip is not installed, its files are not read, and `PIP_…` alone counts.

    Raises:
        InputError: for a configuration file that can't be read.
    """
    if find_spec("pip") is None:
        variables = ((name, text) for name, text in os.environ.items() if name.startswith("PIP_"))
        lines = [f":env:.{name[4:].lower().replace('_', '-')}={text!r}" for name, text in variables]
    else:
        argv = [sys.executable, "-m", "pip", "config", "list"]
        listed = subprocess.run(argv, capture_output=True, text=True, check=False)
        if listed.returncode:
            raise InputError(f"pip's configuration can't be read: {_one_line(listed.stderr)}")
        lines = listed.stdout.splitlines()
    settings: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):  # later ones win
        for line in lines:
            key, _, value = line.partition("=")
            if key.startswith(section) and (text := ast.literal_eval(value)):  # pip ignores ""
                name = key.removeprefix(section)
                settings[_ALIASES.get(name, name)] = text
    return settings


def _sources(settings: Mapping[str, str]) -> list[tuple[str, str]]:
    """Places to look in, as unearth's keyword and a URL or folder: nearest places first.

    An empty URL stands for the default index, PyPI.
    """
    places = [("find_links", place) for place in settings.get("find-links", "").split()]
    if settings.get("no-index", "").lower() not in _TRUE:
        places.append(("index_urls", settings.get("index-url", "")))
        places += [("index_urls", url) for url in settings.get("extra-index-url", "").split()]
    return places


def _session(settings: Mapping[str, str]) -> Any:
    """A client set up as pip's would be. (Its types don't match those that unearth declares.)"""
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers import PyPIClient

    context: ssl.SSLContext | bool = True
    cert, client_cert = settings.get("cert"), settings.get("client-cert")
    try:
        if cert or client_cert:
            folder = cert if cert and Path(cert).is_dir() else None
            context = ssl.create_default_context(cafile=None if folder else cert, capath=folder)
            if client_cert:
                context.load_cert_chain(client_cert)
        timeout = float(settings.get("timeout", 15))
    except OSError as error:
        raise InputError(f"pip's cert or client-cert can't be read: {error}") from error
    except ValueError as error:
        raise InputError(f"pip's timeout is no number: {settings['timeout']!r}") from error
    session = PyPIClient(
        trusted_hosts=settings.get("trusted-host", "").split(),
        verify=context,
        timeout=timeout,
        follow_redirects=True,
        proxy=settings.get("proxy"),
    )
    urls = [url for kind, url in _sources(settings) if kind == "index_urls" and url]
    session.auth = MultiDomainBasicAuth(prompting=False, index_urls=urls)
    return session


class _Reasons(logging.Handler):
    """Collects unearth's warnings about pages and links that it left out."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(_one_line(record.getMessage()))


@contextmanager
def _reasons() -> Iterator[list[str]]:
    handler = _Reasons()
    logger = logging.getLogger("unearth")
    logger.addHandler(handler)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)


def _one_line(error: object) -> str:
    text = re.sub(r"//[^/@\s]+@", "//***@", " ".join(str(error).split()))
    return text[:300] or type(error).__name__


def _retries(settings: Mapping[str, str]) -> int:
    text = settings.get("retries", "5")  # 5 is pip's default
    if not text.isdecimal():
        raise InputError(f"pip's retries is no number: {text!r}")
    return int(text)


def _find(session: Any, settings: Mapping[str, str], pinned: PinnedFile) -> "Link":
    from unearth import PackageFinder
    from unearth.preparer import HTTPErrors

    failures: tuple[type[Exception], ...] = (*HTTPErrors, OSError, ValueError)
    reasons: list[str] = []
    for kind, place in _sources(settings):
        shown = _one_line(place) if place else "PyPI"
        places = {kind: [place]} if place else {}
        try:
            finder = PackageFinder(
                session,
                index_urls=places.get("index_urls", ()),
                find_links=places.get("find_links", ()),
                ignore_compatibility=True,
            )
            with _reasons() as warnings:
                packages = finder.find_all_packages(pinned.project, allow_yanked=True)
                links = [p.link for p in packages if p.link.filename == pinned.filename]
        except failures as error:
            reasons.append(f"{shown}: {_one_line(error)}")
            continue
        for link in links:
            offered = (link.hash_option or {}).get("sha256", [pinned.sha256])[0]
            if offered == pinned.sha256:
                return link
            warnings.append(f"offers it with sha256 {offered}, expected {pinned.sha256}")
        reasons.append(f"{shown}: {warnings[-1] if warnings else 'does not have it'}")
    raise InputError(
        f"no {pinned.filename} where pip looks for packages ("
        + ("; ".join(reasons) or "no-index is set, and no find-links")
        + "); set pip's index-url, or put the file into a folder that MINBERT_ASSETS names"
    )


def check_file(path: Path, pinned: PinnedFile, source: str) -> None:
    """Compare a file's digest with the pinned one.

    Args:
        source: the file's origin, for messages.

    Raises:
        InputError: if they differ, or the file can't be read.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"{path}: can't be read ({error.strerror})") from error
    if digest != pinned.sha256:
        raise InputError(
            f"{source}: is damaged or another file: its {path.stat().st_size:,} of "
            f"{pinned.size:,} bytes have sha256 {digest}, expected {pinned.sha256}"
        )


def download(pinned: PinnedFile, folder: Path, progress: Progress | None) -> Path:
    """Download the pinned file, from the first of pip's sources that has it; its path.

    Raises:
        InputError: if no source has it, a download fails, or its digest is another.
        OSError: if it can't be written.
    """
    from unearth.preparer import HTTPErrors

    settings = pip_settings()
    path = folder / pinned.filename
    with _session(settings) as session:
        link = _find(session, settings, pinned)
        source = _one_line(link.url_without_fragment)
        for retries_left in reversed(range(_retries(settings) + 1)):
            try:
                _save(session, link, path, pinned.size, progress)
                break
            except HTTPErrors as error:
                if retries_left:
                    time.sleep(0.5)
                    continue
                if path.exists():
                    check_file(path, pinned, f"{source} ({_one_line(error)})")
                raise InputError(f"{source}: {_one_line(error)}") from error
    check_file(path, pinned, source)
    return path


def _save(session: Any, link: "Link", path: Path, size: int, progress: Progress | None) -> None:
    done = 0
    with session.get_stream(link.normalized) as response:
        response.raise_for_status()
        with path.open("wb") as file:
            for chunk in response.iter_bytes():
                done += len(chunk)
                file.write(chunk)
                if progress is not None:
                    progress(min(done, size), size)
                if done > size:  # another file: the rest is of no use
                    break
