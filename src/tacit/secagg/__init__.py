"""Aggregation protocols as pure functions: ``masked`` and the baseline ``plain``."""
