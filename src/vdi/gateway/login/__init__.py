"""How people prove who they are: local passwords, OIDC, API tokens; and how long that holds."""
