"""A run and its mirror: what is missing there is sent, what a policy drops removed, what is lost here brought back."""
