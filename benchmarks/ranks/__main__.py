"""`python -m benchmarks.ranks`."""

from benchmarks.ranks.command import main

main()
