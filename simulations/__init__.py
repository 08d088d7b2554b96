"""The lab: imports all, is imported by none."""
