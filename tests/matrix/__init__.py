"""Kinds of models, adapters and optimizers, each saved, interrupted, resumed and compared: with the Trainer, and ours."""
