"""Kasm Workspaces on K3s: which chart it is, its values, whether a cluster can hold it, what is
wrong with it.

`generations` holds what is known of the three charts, as data; everything but `collect` is pure.
"""
