"""State of a training process, named and copied; torch lives here."""
