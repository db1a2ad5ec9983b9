"""Meaning of a snapshot's objects: components, sessions, permissions, policies, and their sanitized form. Pure."""
