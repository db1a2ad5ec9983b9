"""Meaning of a snapshot's objects: components, sessions, policies, references. Pure."""
