"""Tests of dispatch, laid out like it."""
