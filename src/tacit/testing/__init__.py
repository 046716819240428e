"""Deterministic stand-ins for the ports of ``tacit.types``; for tests and benchmarks only."""
