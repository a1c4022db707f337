"""The changes that training made to weights: `python -m bench.updates`."""
