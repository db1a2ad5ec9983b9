"""The doctor: what is broken, where, and how to fix it. Only `collect`, `probe` and `fix.apply` do I/O."""
