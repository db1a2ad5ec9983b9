"""Page `/desktops/NAME/files`: the home of a running desktop, downloads, uploads."""

import logging
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from urllib.parse import parse_qs, quote, unquote

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from vdi.gateway.denied import ActionDenied, CrossSiteError
from vdi.gateway.desktop_agent import HomeEntry, HomeFolder
from vdi.gateway.portal import pages
from vdi.gateway.portal.pages import PortalPages, done_message
from vdi.gateway.rights import Action, User
from vdi.gateway.web.credentials import find_foreign_origin
from vdi.gateway.web.middleware import body_pieces
from vdi.session.streaming import file_transfers

log = logging.getLogger(__name__)


class _Download(StreamingResponse):
    """Closes the request to the agent at its end. A content that breaks off closes the browser's connection."""

    request: AsyncExitStack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            async with self.request:
                await super().__call__(scope, receive, send)
        except ActionDenied as why:
            log.warning("a download broke off: %s", why.sentence)


class FilePages(PortalPages):
    """Pages and addresses below `/desktops/NAME/files`."""

    def routes(self) -> list[Route]:
        return [
            self._get("/desktops/{name}/files", self.folder),
            self._get("/desktops/{name}/files/content", self.download),
            Route("/desktops/{name}/files", self.upload, methods=["POST"]),
        ]

    async def folder(self, request: Request, user: User) -> Response:
        name, path = request.path_params["name"], _path(request)
        desktop, session = pages.desktop_of(self._services, user, name), self._cluster.session(name)
        if desktop is None or session is None:
            return self._not_found(request, user, name)
        folder, error, status = None, "", 200
        try:
            folder = await self._services.agents.list_files(user, name, path)
        except ActionDenied as why:
            error, status = why.sentence, why.status
        hidden, names = request.query_params.get("hidden") == "yes", path.split("/") if path else []
        return self._page(
            request,
            user,
            "files.html",
            status=status,
            here="desktops" if desktop.mine else "shared",
            desktop=desktop,
            folder=folder,
            rows=[*_rows(folder, path, hidden=hidden)] if folder else [],
            parents=[(name, _quoted("/".join(names[:number]))) for number, name in enumerate(names, start=1)],
            at=_quoted(f"{path}/" if path else ""),
            hidden=hidden,
            error=error,
            may_upload=Action.BROWSE in desktop.actions
            and "upload" in file_transfers(self._cluster.template(session.spec.template)),
            done=done_message(request),
        )

    async def download(self, request: Request, user: User) -> Response:
        """A file, or a folder as zip: never shown by the browser, whatever is in it."""
        # It leaves a trace in the audit and works in the desktop: no picture or frame of another page starts one.
        if find_foreign_origin(request.headers, self._settings.portal_url):
            raise CrossSiteError(f"Downloads start on a page of {self._settings.portal_url}.")
        name, path = request.path_params["name"], _path(request)
        async with AsyncExitStack() as stack:
            copy = self._services.agents.copy_file(user, name, path)
            length, content = await stack.enter_async_context(copy)
            answer = _Download(content, media_type="application/octet-stream")
            file, ending = quote(path.rpartition("/")[2] or name, safe="", errors="replace"), ".zip"
            if length is not None:
                answer.headers["Content-Length"], ending = length, ""
            answer.headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{file}{ending}"
            answer.request = stack.pop_all()
            return answer

    async def upload(self, request: Request) -> Response:
        """The body is the file: a form would have to be taken apart here."""
        user = await self._services.guard.require(request)
        await self._services.guard.check_csrf(request)
        length = request.headers.get("content-length", "")
        if not length.isdecimal():
            return PlainTextResponse("Content-Length is missing.", 411)
        copy = self._services.agents.copy_file
        async with copy(user, request.path_params["name"], _path(request), body_pieces(request), length):
            return PlainTextResponse("Stored.", 201)


def _path(request: Request) -> str:
    """`path` of the address; Starlette would lose bytes that are not UTF-8."""
    found = parse_qs(request.url.query, errors="surrogateescape").get("path", [""])[0]
    return "/".join(filter(None, found.split("/")))


def _rows(folder: HomeFolder, path: str, *, hidden: bool) -> Iterator[tuple[HomeEntry, str, str, datetime]]:
    """Entries with name, path for an address, and time."""
    for entry in folder.entries:
        name = unquote(entry.name, errors="surrogateescape")
        if hidden or not name.startswith("."):
            yield entry, name, _quoted(f"{path}/{name}".lstrip("/")), datetime.fromtimestamp(entry.modified, UTC)


def _quoted(path: str) -> str:
    return quote(path, errors="surrogateescape")
