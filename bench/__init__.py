"""The benchmarking harness: cells, grids, workers, results, statistics and reports."""
