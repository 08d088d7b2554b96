"""item_features."""
