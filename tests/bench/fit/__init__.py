"""Tests of the command bench.fit."""
