"""What a policy removes or thins: shown first, then carried out."""
