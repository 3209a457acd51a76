"""`python -m benchmarks.saves`."""

from benchmarks.saves.command import main

main()
