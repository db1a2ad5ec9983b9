"""`vdi gpu`: GPUs that are shared by time-slicing."""
