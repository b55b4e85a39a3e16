"""Ratios to named baselines: `python -m benchmarks` runs them all, `python -m benchmarks kde` one."""
