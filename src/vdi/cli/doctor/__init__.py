"""`vdi doctor`: checks, and fixes on request."""
