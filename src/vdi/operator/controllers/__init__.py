"""Controllers: one module per kind of object that is reconciled."""
