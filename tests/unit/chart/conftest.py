"""Fixtures for the tests that render the chart."""

from support.helm_program import helm

__all__ = ["helm"]
