"""Engines: thin adapters that move bytes between sans-IO parties."""
