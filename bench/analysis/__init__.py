"""Comparable groups of rows, their settings, and verdicts about them. Pure."""
