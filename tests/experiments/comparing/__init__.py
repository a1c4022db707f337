"""How often bench.compare is wrong, and what it finds: the figures of docs/comparing.md."""
