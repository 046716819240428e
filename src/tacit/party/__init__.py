"""Coordinator, Site and Helper: the floors below, composed into sans-IO parties."""
