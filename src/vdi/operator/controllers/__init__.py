"""One module per kind that is reconciled."""
