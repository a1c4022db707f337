"""Cells as array tasks of Slurm, by its own commands and a folder that all nodes share."""
