"""`vdi gateway`: the process, and its local users."""
