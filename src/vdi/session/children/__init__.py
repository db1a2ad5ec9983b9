"""Builders of a session's children: frozen inputs -> Kubernetes objects. Pure: no clock, no randomness, no API."""
