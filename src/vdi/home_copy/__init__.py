"""People's homes as archives: out of the cluster and back, through a pod that mounts the volume."""
