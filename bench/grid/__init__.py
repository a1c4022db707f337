"""The command `python -m bench.grid`: one run of a grid, from plan to report."""
