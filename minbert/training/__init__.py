"""Training and evaluation."""

COMPILES_FROM = (2, 13)
"""The first version of torch whose compiler can be used: torch.compile limits the number of graphs
of each model by itself."""
