"""A person's own homes: the list, and the question before one is deleted."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vdi.cluster.units import parse_time
from vdi.gateway.denied import ActionDenied
from vdi.gateway.portal.pages import PortalPages, done, said
from vdi.gateway.rights import User


class HomePages(PortalPages):
    """Pages under `/homes`."""

    def routes(self) -> list[Route]:
        return [
            Route("/homes", self.my_homes, methods=["GET"]),
            Route("/homes/{name}/delete", self.ask, methods=["GET"]),
            Route("/homes/{name}/delete", self.delete, methods=["POST"]),
        ]

    async def my_homes(self, request: Request) -> Response:
        user = await self._portal.guard.require(request)
        return await self._list(request, user)

    async def ask(self, request: Request) -> Response:
        """The page that asks before a home is deleted."""
        user, name = await self._portal.guard.require(request), request.path_params["name"]
        home = self._portal.context.cluster.home_of(user.email, name)
        if home is None:
            return await self._list(request, user, status=404, error=f"You have no home {name!r}.")
        return await self._page(request, user, "home_delete.html", here="homes", home=home)

    async def delete(self, request: Request) -> Response:
        """Delete it, as the page before has asked."""
        user, _ = await self._posted(request)
        name = request.path_params["name"]
        try:
            await self._portal.actions.delete_home(user, name)
        except ActionDenied as why:
            return await self._list(request, user, status=why.status, error=why.sentence)
        return done("/homes", "delete-home", name)

    async def _list(self, request: Request, user: User, *, status: int = 200, error: str = "") -> Response:
        homes = self._portal.context.cluster.homes_of(user.email)
        used = {home.name: parse_time(home.last_used) for home in homes if home.last_used}
        return await self._page(
            request, user, "homes.html", status=status, here="homes", homes=homes, used=used, error=error,
            done=said(request),
        )  # fmt: skip
