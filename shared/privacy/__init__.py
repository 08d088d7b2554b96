"""Releases, their cost, and the randomness they rest on: pure, no files."""
