"""Measurements, not tests: run one with `python -m simulations.benchmarks.NAME`."""
