"""Hugging Face Trainer and everything built on it (TRL): attach to one, or derive from `ManagedTrainer`."""
