"""The demonstration: a real fine-tune that is killed inside a save, resumed, and compared bit for bit."""
