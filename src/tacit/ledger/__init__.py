"""Tamper-evident event logs: Merkle trees, signed checkpoints and proofs."""
