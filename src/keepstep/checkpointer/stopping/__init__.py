"""What ends a training early and has it resumed: signals, limits of time, a file, requests; and how long there is."""
