"""Checks: pure functions from a snapshot to findings, one module for each part of a cluster. `run`
calls them.
"""
