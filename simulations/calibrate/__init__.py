"""What a budget takes and leaves, before any data is touched."""
