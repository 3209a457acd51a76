"""What a Trainer evaluates and logs."""
