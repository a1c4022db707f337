"""The command `python -m bench.data`: what is in a data set."""
