"""The domain of desktops: decisions about sessions, templates and pools, and the objects that
follow. Pure.

No I/O, no clock, no randomness: operator, gateway, doctor and command line call the same functions.
"""
