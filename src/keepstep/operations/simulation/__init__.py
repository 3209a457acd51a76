"""A training without training: the real retention rules over made-up checkpoints, step by step."""
