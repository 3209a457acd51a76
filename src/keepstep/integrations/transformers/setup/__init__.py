"""What a Trainer is asked before its first step: policy, engine, surroundings, messages."""
