"""Measurements of the product, run by `make bench`; figures are quoted in docs/performance.md."""
