"""Commands built on finished runs: ensembles, and what training changed in the weights."""
