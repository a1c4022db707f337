"""Importing all that a cell needs, torch above all: most of the time until its first step."""

import gc


def import_all() -> None:
    """Import it without a search for garbage in between.

    Hundreds of thousands of objects come to stay. Looking through them again and again takes a
    tenth of the import and more, and they are not looked through later on or at the end either.
    """
    gc.disable()
    try:
        import bench.worker.run  # noqa: F401
    finally:
        gc.enable()
    gc.freeze()
