"""Tests of the command bench.data."""
