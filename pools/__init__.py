"""The rows that operators edit: they go from here into one mirror in Redis, and dispatch reads only the mirror."""
