"""Kinds of models, adapters and optimizers, interrupted, resumed and compared: by the Trainer alone, and by ours."""
