"""A partner's node."""
