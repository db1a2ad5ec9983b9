"""The REST API `/api/v1`: what the portal does, for programs.

Handlers call `services`, as the portal's pages do. Their signatures and docstrings make the OpenAPI
document.
"""
