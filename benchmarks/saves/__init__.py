"""The benchmark behind `make bench`: what a save costs a training, and what a resume takes, here and with others."""
