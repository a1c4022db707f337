"""From a worker's result file to runs.csv, and back to its predictions."""
