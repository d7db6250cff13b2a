"""Class heads: from features to logits, with one interface, so that any fits on any backbone."""
