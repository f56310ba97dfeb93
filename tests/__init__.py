"""The same tree again: a test lies where the code lies that it is about."""
