"""The REST API `/api/v1`: everything that the portal does, for programs. One table of operations makes both the routes
and the OpenAPI document; what is done is done by `Actions`, as for the portal.
"""
