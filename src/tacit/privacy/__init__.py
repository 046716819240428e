"""Differential privacy: integer clipping, sampling, noise, accounting, plans and budgets."""
