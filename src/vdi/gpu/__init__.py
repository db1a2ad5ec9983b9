"""Sharing the cluster's NVIDIA GPUs by time-slicing: what is there, what is wrong, what to change.

`collect`, `measure` and `apply` talk to the API server; the package `sharing` is pure.
"""
