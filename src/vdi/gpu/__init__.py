"""Sharing of the cluster's NVIDIA GPUs by time-slicing, for `vdi gpu` and the doctor.

`cluster` makes all calls to the API server; the package `sharing` is pure.
"""
