"""Reconstruction of records from updates, sums and noisy sums, and the planted layer."""
