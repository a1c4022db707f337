"""Ensembles of cells that have run: `python -m bench.ensemble`."""
