"""The only package that speaks Redis: the service hands in values, one Lua call moves them, outcomes come back."""
