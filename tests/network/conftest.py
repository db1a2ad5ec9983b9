"""Fixtures for the tests of the NetworkPolicies."""

from support.helm_program import helm

__all__ = ["helm"]
