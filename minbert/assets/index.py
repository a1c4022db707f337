"""One pinned file from the package index that pip is configured for.

pip itself can't be asked for it: given a source distribution it runs the package's setup.py.
`unearth` finds files without building anything; this module tells it where to look, from pip's own
configuration (https://pip.pypa.io/en/stable/topics/configuration/), downloads, and turns what goes
wrong into one line.
"""

import configparser
import hashlib
import logging
import os
import re
import ssl
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import platformdirs

from minbert.errors import InputError

if TYPE_CHECKING:
    from unearth import Link

Progress = Callable[[int, int], None]
"""Told how many bytes are done, and of how many."""

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


def pip_config_files() -> list[Path]:
    """The configuration files that pip reads, whether they exist or not; later ones win."""
    given = os.environ.get("PIP_CONFIG_FILE")
    if given == os.devnull:
        return []
    name = "pip.ini" if sys.platform == "win32" else "pip.conf"
    site = platformdirs.site_config_dir("pip", appauthor=False, multipath=True)
    folders = [Path(folder) for folder in site.split(os.pathsep)]
    if sys.platform not in ("win32", "darwin"):
        folders.append(Path("/etc"))
    if not (given and Path(given).exists()):
        user = Path(platformdirs.user_config_dir("pip", appauthor=False, roaming=True))
        if sys.platform == "darwin" and not user.is_dir():
            user = Path.home() / ".config" / "pip"
        folders += [Path.home() / ("pip" if sys.platform == "win32" else ".pip"), user]
    folders.append(Path(sys.prefix))
    return [folder / name for folder in folders] + ([Path(given)] if given else [])


def pip_settings() -> dict[str, str]:
    """Options that `pip install` would take from its files and from `PIP_…`, by long name.

    Raises:
        InputError: for a configuration file that can't be read.
    """
    files = []
    for path in pip_config_files():
        parser = configparser.RawConfigParser()
        try:
            parser.read(path)
        except (configparser.Error, OSError, UnicodeDecodeError) as error:
            raise InputError(f"pip's {path} can't be read: {_one_line(error)}") from error
        files.append(parser)
    found: list[tuple[str, str]] = []
    for section in ("global", "install"):
        for parser in files:
            if parser.has_section(section):
                found += parser.items(section)
    found += [(key[4:], value) for key, value in os.environ.items() if key.startswith("PIP_")]
    merged: dict[str, str] = {}
    for key, value in found:
        name = key.lower().replace("_", "-").removeprefix("--")
        if value:  # pip ignores empty ones
            merged[_ALIASES.get(name, name)] = value
    return merged


def _sources(settings: Mapping[str, str]) -> list[tuple[str, str]]:
    """Where to look, as unearth's keyword and a URL or folder: nearest places first.

    An empty URL is the default index, PyPI.
    """
    found = [("find_links", place) for place in settings.get("find-links", "").split()]
    if settings.get("no-index", "").lower() not in _TRUE:
        found.append(("index_urls", settings.get("index-url", "")))
        found += [("index_urls", url) for url in settings.get("extra-index-url", "").split()]
    return found


def _session(settings: Mapping[str, str]) -> Any:
    """A client set up as pip's would be. (Its own types don't match what unearth asks for.)"""
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
    """Collects the warnings in which unearth says why it left a page or link out."""

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

    Raises:
        InputError: where they differ, or the file can't be read; `source` says in it where the
            file came from.
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
    """The path, in a folder, of the pinned file from the first of pip's sources that has it.

    Raises:
        InputError: when it isn't to be had, or what comes has another digest.
        OSError: when it can't be written.
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
                if done > size:  # another file: no need of the rest
                    break
