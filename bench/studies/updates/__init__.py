"""What training changed in a model's weights: `python -m bench.updates`."""
