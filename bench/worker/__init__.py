"""The process that runs one cell: `python -m bench.worker CELL_FOLDER`."""
