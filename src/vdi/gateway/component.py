"""The interface of the gateway's components: login, edge, API, history, portal, doctor's record and health."""

from collections.abc import Iterator, Sequence

from starlette.routing import BaseRoute


class Component:
    """Each component overrides what it has. `app` builds them, and matches their routes in the order of its list.

    The portal's host has its own route table, the hosts of desktops have another: a path of one is never answered on
    the other.
    """

    def portal_routes(self) -> Sequence[BaseRoute]:
        """Answered at `https://portal.<domain>`, on the public listener."""
        return ()

    def desktop_routes(self) -> Sequence[BaseRoute]:
        """Answered at `https://<label>.<domain>`, on the public listener."""
        return ()

    def internal_routes(self) -> Sequence[BaseRoute]:
        """Answered on the internal listener, whatever the Host: for Traefik and the operator, never for browsers."""
        return ()

    async def run(self) -> None:
        """Background work until cancelled; returns early without any.

        Started once the watches are synced and the database is up. An exception ends the process.
        """

    def problems(self) -> Iterator[str]:
        """Why this component cannot do its work in this process, one line each; each makes /readyz answer 503."""
        yield from ()

    async def external_problems(self) -> Sequence[str]:
        """Problems outside of this process, one line each. They are logged; they do not make the process unready."""
        return ()
