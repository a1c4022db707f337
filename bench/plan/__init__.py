"""What to run: grid files, cells, the columns of runs.csv, and which cells are left to do."""
