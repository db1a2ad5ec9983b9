"""The objects of a snapshot, interpreted: components, sessions, permissions, policies; and their sanitized form. Pure."""
