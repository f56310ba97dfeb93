"""One file per command; each parses its arguments, calls what does the work, and prints the answer."""
