"""The doctor: what is broken, where, and how to mend it. `collect` reads, everything else is pure. Read-only."""
