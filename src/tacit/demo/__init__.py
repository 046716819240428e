"""The demonstrations: real public data, split among sites that share nothing but the protocol."""
