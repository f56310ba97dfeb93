"""The real scripts on real servers: what each answers, and what no order of them can break."""
