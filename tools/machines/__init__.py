"""Whole virtual machines that do what a newcomer does: `make machines`. For developers; not in the wheel."""
