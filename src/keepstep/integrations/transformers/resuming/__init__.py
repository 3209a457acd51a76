"""Whether a checkpoint fits, how exact a resume is, and what stock resuming leaves out."""
