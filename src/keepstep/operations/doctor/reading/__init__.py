"""What can be known of a training without running it: expressions, parsers, command lines, shells, notebooks, files."""
