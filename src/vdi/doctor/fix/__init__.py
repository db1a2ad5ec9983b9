"""`vdi doctor --fix`: the changes that it may make, and making them."""
