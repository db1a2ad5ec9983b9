"""Reads what a snapshot is made of from the API server."""
