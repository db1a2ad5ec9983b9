"""Reads what preflight and validation look at: the API, and what lies outside of it."""
