"""The checkpoint that a cell was trained from, as others can get it."""

import re
from pathlib import Path
from typing import Final

from bench.export.trained import Base
from bench.plan.models import Model
from minbert.assets.embedded import ASSETS
from minbert.files import is_file, sha256_of, weights_file

_CARD: Final = "README.md"
_LICENCE: Final = re.compile(r"^license:\s*[\"']?([\w.+-]{1,60})", re.MULTILINE)
_LONGEST: Final = 2**20
_PREFIX: Final = "models--"


def describe_base(model: Model) -> Base:
    """A model's checkpoint: its name and commit on the hub where known, digest and licence.

    Raises:
        ValueError: if its weights are random.
    """
    folder = model.checkpoint
    if folder is None:
        raise ValueError("a model with random weights has no checkpoint")
    weights = weights_file(folder)
    sha256 = sha256_of(weights)
    name, revision, licence = model.name, None, _licence_in(folder)
    asset = next(
        (a for a in ASSETS.values() if a.hub and a.files.get(weights.name) == sha256), None
    )
    if asset is not None and asset.hub:
        (name, revision), licence = asset.hub, asset.licence.lower()
    elif hub := _of_snapshot(folder):
        name, revision = hub
    return Base(
        name=name,
        on_hub=revision is not None,
        revision=revision,
        file=weights.name,
        sha256=sha256,
        licence=licence,
        folder=folder,
    )


def _of_snapshot(folder: Path) -> tuple[str, str] | None:
    """Name and commit of a checkpoint in the cache of the hub's library, whose folders are
    `models--USER--NAME/snapshots/COMMIT`."""
    model = folder.parent.parent.name
    if folder.parent.name != "snapshots" or not model.startswith(_PREFIX):
        return None
    return model.removeprefix(_PREFIX).replace("--", "/"), folder.name


def _licence_in(folder: Path) -> str | None:
    """The licence that the model card in a checkpoint's folder names, if there is one."""
    path = folder / _CARD
    if not is_file(path) or path.stat().st_size > _LONGEST:
        return None
    _, fence, rest = path.read_text(encoding="utf-8", errors="replace").partition("---\n")
    match = _LICENCE.search(rest.partition("\n---")[0]) if fence else None
    return match and match[1]
