"""The command `python -m bench.merge`."""

from bench.common.command import run_command
from bench.results.merge import main

if __name__ == "__main__":
    run_command(main)
