"""The domain: what a session means. Pure functions, no I/O, no clock, no randomness."""
