"""Comparable groups of rows, their settings, and what can be said of them. Pure."""
