"""Snapshots of a cluster, and checks of them with their codes. Pure; knows no product."""
