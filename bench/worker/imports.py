"""The imports of a cell, torch above all, which take most of the time until its first step."""

import gc


def import_all() -> None:
    """Import everything that a cell needs, with garbage collection off.

    Importing makes hundreds of thousands of permanent objects. Scanning them again and again takes
    a tenth of the import and more; frozen, they are not scanned later either.
    """
    gc.disable()
    try:
        import bench.worker.run  # noqa: F401
    finally:
        gc.enable()
    gc.freeze()
