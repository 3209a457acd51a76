"""Names of runs that try to be more than text."""

SCRIPT = "<script>document.title='owned'<"  # a slash can't be part of a name
QUOTES = "\" onmouseover=\"document.title='owned'\" 'x"
TURNED = "run-\u202egnp.tset"
LONG = "long-" + "x" * 240
"""A name of a directory has at most 255 bytes."""
HOSTILE = (SCRIPT, QUOTES, TURNED, LONG)
