"""Download of a pinned file from the package index that pip is configured for.

pip itself can't download it: given a source distribution, it runs the package's setup.py. `unearth`
finds files without building anything; it is given pip's own configuration
(https://pip.pypa.io/en/stable/topics/configuration/).
"""

import ast
import logging
import re
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any, Final

import click

from minbert.assets.cache import Asset
from minbert.errors import InputError

_TRUE: Final = ("y", "yes", "t", "true", "on", "1")
_TRIES: Final = 3


def download(asset: Asset, folder: Path) -> Path:
    """Download an asset's archive from the first of pip's sources that has it; its path. Progress
    is shown on stderr. InputError if no source has it, a download fails, or its digest is another.
    OSError if it can't be written."""
    from unearth.preparer import HTTPErrors

    settings = pip_settings()
    path = folder / asset.archive
    with _session(settings) as session:
        link = _find(session, settings, asset)
        source = _one_line(link.url_without_fragment)
        for tries_left in reversed(range(_TRIES)):
            try:
                _save(session, link.normalized, path, asset)
                break
            except HTTPErrors as error:
                if not tries_left:
                    raise InputError(f"{source}: {_one_line(error)}") from error
                time.sleep(0.5)
    return asset.check_archive(path, source)


def pip_settings() -> dict[str, str]:
    """Options that `pip install` would take from its files and from `PIP_…`, by long name.
    InputError for a configuration file that can't be read."""
    argv = [sys.executable, "-m", "pip", "config", "list"]
    listed = subprocess.run(argv, capture_output=True, text=True, check=False)
    if listed.returncode:
        raise InputError(f"pip's configuration can't be read: {_one_line(listed.stderr)}")
    settings: dict[str, str] = {}
    for section in ("global.", "install.", ":env:."):  # later ones win
        for line in listed.stdout.splitlines():
            key, _, value = line.partition("=")
            if key.startswith(section) and (text := ast.literal_eval(value)):  # pip ignores ""
                settings[key.removeprefix(section).removeprefix("default-")] = text
    return settings


def _sources(settings: Mapping[str, str]) -> list[tuple[str, str]]:
    """Places to look in, as unearth's keyword and a URL or folder: nearest places first."""
    places = [("find_links", place) for place in settings.get("find-links", "").split()]
    if settings.get("no-index", "").lower() not in _TRUE:
        first = settings.get("index-url", "https://pypi.org/simple")
        extra = settings.get("extra-index-url", "").split()
        places += [("index_urls", url) for url in (first, *extra)]
    return places


def _session(settings: Mapping[str, str]) -> Any:
    """A client set up as pip's would be. (Its types don't match those that unearth declares.)"""
    from unearth.auth import MultiDomainBasicAuth
    from unearth.fetchers import PyPIClient

    cert, client_cert = settings.get("cert"), settings.get("client-cert")
    try:
        context = ssl.create_default_context(cafile=cert) if cert or client_cert else True
        if client_cert and not isinstance(context, bool):
            context.load_cert_chain(client_cert)
        session = PyPIClient(
            trusted_hosts=settings.get("trusted-host", "").split(),
            verify=context,
            timeout=float(settings.get("timeout", 15)),
            follow_redirects=True,
            proxy=settings.get("proxy"),
        )
    except (OSError, ValueError) as error:
        raise InputError(
            f"pip's cert, client-cert, timeout or proxy can't be used: {_one_line(error)}"
        ) from error
    urls = [url for kind, url in _sources(settings) if kind == "index_urls"]
    session.auth = MultiDomainBasicAuth(prompting=False, index_urls=urls)
    return session


def _find(session: Any, settings: Mapping[str, str], asset: Asset) -> Any:
    from unearth import PackageFinder
    from unearth.preparer import HTTPErrors

    failures: tuple[type[Exception], ...] = (*HTTPErrors, OSError, ValueError)
    reasons: list[str] = []
    for kind, place in _sources(settings):
        options: dict[str, Any] = {kind: [place], "ignore_compatibility": True}
        try:
            with _warnings() as warnings:
                finder = PackageFinder(session, **options)
                packages = finder.find_all_packages(asset.project, allow_yanked=True)
                for package in packages:
                    if package.link.filename == asset.archive:
                        return package.link
            reason = warnings[-1].getMessage() if warnings else "does not have it"
        except failures as error:
            reason = str(error)
        reasons.append(_one_line(f"{place}: {reason}"))
    raise InputError(
        f"no {asset.archive} where pip looks for packages ("
        + ("; ".join(reasons) or "no-index is set, and no find-links")
        + "); set pip's index-url, or put the file into a folder that MINBERT_ASSETS names"
    )


@contextmanager
def _warnings() -> Iterator[list[logging.LogRecord]]:
    handler, logger = BufferingHandler(1000), logging.getLogger("unearth")
    handler.setLevel(logging.WARNING)
    logger.addHandler(handler)
    try:
        yield handler.buffer
    finally:
        logger.removeHandler(handler)


def _one_line(error: object) -> str:
    """A text in one line, without passwords in URLs."""
    return re.sub(r"//[^/@\s]+@", "//***@", " ".join(str(error).split()))[:300]


def _save(session: Any, url: str, path: Path, asset: Asset) -> None:
    label = f"fetching {asset.name} ({asset.archive_size / 1e6:.1f} MB)"
    with session.get_stream(url) as response, path.open("wb") as file:
        response.raise_for_status()
        with click.progressbar(length=asset.archive_size, label=label, file=sys.stderr) as bar:
            for chunk in response.iter_bytes():
                file.write(chunk)
                bar.update(len(chunk))
                if file.tell() > asset.archive_size:  # another file: the rest is of no use
                    break
