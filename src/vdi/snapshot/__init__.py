"""Snapshots of a cluster, and checks of them with their codes. Knows no product."""
