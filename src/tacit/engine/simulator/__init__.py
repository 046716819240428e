"""Deterministic simulation: one seed drives the network, the machines and the adversary.

The parties are the production objects; the simulator moves their envelopes on a virtual clock, breaks
what can break, and lets named checkers look at everything that was said. It knows no test double: the
cluster, the vault that remembers every secret, and the behaviours of an adversary are arguments.
"""
