"""Sharing the cluster's NVIDIA GPUs by time-slicing: what is there, what is wrong, what to change.

`collect` and `carry_out` talk to the API server; everything else is pure.
"""
