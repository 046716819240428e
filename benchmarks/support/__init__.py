"""What the benchmarks share: timing, rows and their targets, description of the machine."""
