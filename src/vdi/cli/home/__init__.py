"""`vdi home`: the volumes with people's files."""
