"""`vdi kasm`: Kasm Workspaces on K3s."""
