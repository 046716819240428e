"""Identities, the roster that pins them, and sealing to a party's key."""
