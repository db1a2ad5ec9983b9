"""The gateway as the commands use it: its REST API, the OAuth flow of `vdi login`, the stored logins."""
