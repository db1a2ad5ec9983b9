"""Installs and upgrades Kasm with helm."""
