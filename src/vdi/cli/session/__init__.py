"""`vdi session`: desktops, on a cluster or through a gateway."""
