"""What a person changed in a checkpoint on purpose: shown first, then taken over."""
