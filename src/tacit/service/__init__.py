"""Long-lived processes: coordinator, sites and helpers, and how a federation is put together."""
