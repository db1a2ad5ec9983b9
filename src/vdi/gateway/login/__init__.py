"""Authentication of users: local passwords, an identity provider, API tokens, and the life of
logins.
"""
