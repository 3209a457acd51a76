"""Every row of the table of what a stock Trainer does wrong, as a test."""
