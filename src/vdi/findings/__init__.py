"""What a check reports, and how that is printed: one model, one renderer and one set of exit codes for all checks."""
