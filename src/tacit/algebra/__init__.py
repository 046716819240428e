"""Rings, mask expansion, fixed-point encoding and exact integer products."""
