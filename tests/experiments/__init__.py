"""Experiments on the tool itself, which pytest does not collect: each is one command,
`python -m tests.experiments.NAME`, whose outcome is committed."""
