"""Rings, mask expansion and fixed-point encoding."""
