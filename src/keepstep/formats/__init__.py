"""Stock-format tensor files, written and read at disk speed; torch lives here."""
