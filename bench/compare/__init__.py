"""The command bench.compare: whether two sets of results differ, and by how much."""
