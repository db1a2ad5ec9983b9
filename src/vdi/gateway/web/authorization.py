"""The Authorization header of a request."""

from starlette.requests import HTTPConnection


def bearer(request: HTTPConnection) -> str:
    """The token of the Authorization header; empty where it has none."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""
