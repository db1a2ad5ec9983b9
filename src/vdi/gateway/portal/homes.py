"""Pages below `/homes`: a user's own homes, and the question before one is deleted."""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vdi.gateway.denied import ActionDenied
from vdi.gateway.portal.pages import Form, PortalPages, done, done_message
from vdi.gateway.rights import User


class HomePages(PortalPages):
    """The list of homes, and their deletion."""

    def routes(self) -> list[Route]:
        return [
            self._get("/homes", self.my_homes),
            self._get("/homes/{name}/delete", self.ask),
            self._post("/homes/{name}/delete", self.delete),
        ]

    async def my_homes(self, request: Request, user: User) -> Response:
        return self._list(request, user)

    async def ask(self, request: Request, user: User) -> Response:
        """GET /homes/{name}/delete: the question before a home is deleted."""
        try:
            home = self._services.actions.own_home(user, request.path_params["name"])
        except ActionDenied as why:
            return self._list(request, user, status=why.status, error=why.sentence)
        return self._page(request, user, "home_delete.html", here="homes", home=home)

    async def delete(self, request: Request, user: User, _form: Form) -> Response:
        name = request.path_params["name"]
        try:
            await self._services.actions.delete_home(user, name)
        except ActionDenied as why:
            return self._list(request, user, status=why.status, error=why.sentence)
        return done("/homes", "delete-home", name)

    def _list(self, request: Request, user: User, *, status: int = 200, error: str = "") -> Response:
        shown = {"homes": self._cluster.homes_of(user.email), "error": error, "done": done_message(request)}
        return self._page(request, user, "homes.html", status=status, here="homes", **shown)
