"""Pages `/desktops/NAME/files`: the home of a running desktop, downloads, uploads, changes."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from http import HTTPStatus
from typing import Annotated, Literal, NamedTuple, Unpack
from urllib.parse import parse_qs, quote, unquote
from uuid import uuid4

import msgspec
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Route

from vdi.api.session import VDISession
from vdi.cluster.units import parse_quantity
from vdi.gateway.denied import ActionDenied
from vdi.gateway.desktop.access import find_session, find_to_act
from vdi.gateway.in_flight import FILES, SMALL_ANSWER_BYTES, HeldResponse
from vdi.gateway.portal import pages
from vdi.gateway.portal.pages import Form, PortalPages, done_message
from vdi.gateway.rights import Action, User, refusal
from vdi.gateway.store.audit import BEGUN, DONE, act_on, show_name
from vdi.gateway.web.middleware import STREAMED
from vdi.http_client import RequestOptions, ResponseStream, decode_json
from vdi.printable import escape, is_printable
from vdi.session.recording import refuse_picture
from vdi.session.status import is_running
from vdi.session.template_image import file_transfers

MAX_REQUESTS = 300  # for one desktop within WINDOW_SECONDS
_MAX_LIST_BYTES = 2 << 20
# Of the rows of one page: each has the whole path of its entry twice.
_MAX_PATHS = 512 << 10
Direction = Literal["upload", "download"]
_Size = Annotated[int, msgspec.Meta(ge=0)]


class _Entry(msgspec.Struct, rename="camel"):
    """One entry of a folder. `name`: percent-encoded bytes, `modified`: seconds since 1970."""

    name: str
    kind: Literal["folder", "file", "other"]
    size_bytes: _Size
    modified: Annotated[int, msgspec.Meta(ge=0, le=4_000_000_000)]


class _Folder(msgspec.Struct, rename="camel"):
    """A folder of a home, and the space of its volume."""

    entries: Annotated[tuple[_Entry, ...], msgspec.Meta(max_length=2000)]
    is_cut: bool
    used_bytes: _Size
    size_bytes: _Size


class _Change(NamedTuple):
    """A change in a home, by its own page. `method`: of the agent's request."""

    action: str
    method: str
    question: str
    consequence: str
    label: str
    # Label of the text it takes; empty: none.
    field: str = ""


_PLACE = "A name, or a path from the home such as /Documents/new. Nothing is replaced."
_CHANGES = (
    _Change("mkdir", "MKCOL", "New folder in {}", _PLACE, "Create the folder", "Name"),
    _Change("move", "MOVE", "Rename or move {}", _PLACE, "Rename", "New name"),
    _Change(
        "delete",
        "DELETE",
        "Delete {}?",
        "It is deleted permanently, a folder with all files and folders in it.",
        "Delete",
    ),
)


class FilePages(PortalPages):
    """Pages and addresses below `/desktops/NAME/files`."""

    def routes(self) -> list[Route]:
        page, content = "/desktops/{name}/files", "/desktops/{name}/files/content"
        upload = Route(page, self.upload, methods=["POST"])
        routes = [self._get(page, self.folder), self._get(content, self.download), upload]
        for change in _CHANGES:
            path = f"{page}/{change.action}"
            routes.append(self._get(path, partial(self.ask_change, change)))
            routes.append(self._post(path, partial(self.change, change)))
        return routes

    async def folder(self, request: Request, user: User) -> Response:
        async with AsyncExitStack() as held:
            page = await self._folder(request, user, held)
            # A page is larger than the list that it shows: it counts by itself, until the browser
            # has read it.
            if len(page.body) > SMALL_ANSWER_BYTES:
                await self._services.agents.agent.answers.reserve(
                    held, user.email, len(page.body), seconds=0
                )
            return HeldResponse(page, held.pop_all())

    async def _folder(self, request: Request, user: User, held: AsyncExitStack) -> Response:
        name, path = _name(request), _path(request)
        desktop = pages.find_desktop(self._services, user, name)
        folder, error, status, headers, size = None, "", 200, {}, ""
        hidden = _hidden(request)
        try:
            session, agent = self._find(request, user, "download"), self._services.agents.agent
            async with self._ask(request, user, "download") as answer:
                folder = decode_json(
                    await agent.read(session, answer, _MAX_LIST_BYTES, held), _Folder
                )
            home = self._cluster.home_of(session.spec.user, session.status.home_claim)
            size = home.size if home else ""
        except ActionDenied as why:
            error, status, headers = why.sentence, why.status, why.headers
        at, names = _quoted(f"{path}/".lstrip("/")), path.split("/") if path else []
        rows, left = [], _MAX_PATHS
        for entry in folder.entries if folder else ():
            if entry.name.startswith(".") and not hidden:
                continue
            row = _row(at, entry)
            left -= len(row[2])
            if folder and left < 0:
                folder = msgspec.structs.replace(folder, is_cut=True)
                break
            rows.append(row)
        parents = [
            (name, _quoted("/".join(names[:number]))) for number, name in enumerate(names, start=1)
        ]
        ways = file_transfers(self._cluster.template(desktop.spec.template))
        may = {
            "may_upload": "browse" in desktop.actions and "upload" in ways,
            "done": done_message(request),
        }
        shown = {
            "desktop": desktop,
            "folder": folder,
            "rows": rows,
            "parents": parents,
            "at": at,
            "error": error,
            "hidden": hidden,
            "size": size,
            # Else the volume is a folder of its node's disk, whose space is not the home's.
            "has_own_space": folder and size and folder.size_bytes <= 1.1 * parse_quantity(size),
        } | may
        here = "desktops" if desktop.mine else "shared"
        page = self._page(request, user, "files.html", status=status, here=here, **shown)
        page.headers.update(headers)
        return page

    async def download(self, request: Request, user: User) -> Response:
        """A file, or a folder as zip: never shown by the browser, whatever is in it."""
        # It leaves a trace in the audit and works in the desktop: no picture or frame of another
        # page starts one.
        self._services.guard.check_origin(request)
        content = self._content(request, user)
        length = (await anext(content)).decode()
        # Else a copy would go on for a moment after its browser has left.
        done, media_type = BackgroundTask(_close, content), "application/octet-stream"
        file = quote(
            _path(request).rpartition("/")[2] or _name(request),
            safe="",
            errors="replace",
        )
        headers = {
            "Content-Disposition": f"attachment; filename*=UTF-8''{file}{'' if length else '.zip'}"
        }
        headers |= {"Content-Length": length} if length else {}
        return StreamingResponse(content, headers=headers, media_type=media_type, background=done)

    async def _content(self, request: Request, user: User) -> AsyncGenerator[bytes, None]:
        """The length of a file, empty for the zip of a folder; then its content."""
        async with self._ask(request, user, "download", "/files/content") as answer:
            yield answer.headers.get("Content-Length", "").encode()
            async for piece in answer.pieces():
                self._find(request, user, "download")  # the share may have ended
                yield piece

    async def upload(self, request: Request) -> Response:
        """The body is the file: a form would have to be taken apart here."""
        user = await self._services.guard.require(request)
        await self._services.guard.check_csrf(request)
        request.scope[STREAMED] = True
        content = (piece async for piece in request.stream() if self._find(request, user, "upload"))
        headers = {"Content-Length": request.headers.get("content-length", "0")}
        async with self._ask(request, user, "upload", content=content, headers=headers):
            return PlainTextResponse("Stored.", 201)

    async def ask_change(
        self, change: _Change, request: Request, user: User, error: str = "", status: int = 200
    ) -> Response:
        """The question before a change; after a refusal with the reason."""
        self._find(request, user, "upload")
        desktop, path = pages.find_desktop(self._services, user, _name(request)), _path(request)
        name, base = path.rpartition("/")[2], f"/desktops/{desktop.name}/files"
        return self._confirm(
            request,
            user,
            here="desktops" if desktop.mine else "shared",
            path=f"{base}/{change.action}?path={_quoted(path)}{_hidden(request)}",
            back=f"{base}?path={_quoted(_folder_of(change, path))}{_hidden(request)}",
            question=change.question.format(name or "the home"),
            consequence=change.consequence,
            label=change.label,
            dangerous=not change.field,
            text_field=change.field,
            text=name if change.action == "move" else "",
            status=status,
            error=error,
        )

    async def change(self, change: _Change, request: Request, user: User, form: Form) -> Response:
        """Create a folder, move or delete an entry, with one row in the audit."""
        path, to = _path(request), form.get("to", "")
        above = _folder_of(change, path)
        target = to.strip("/") if to.startswith("/") else f"{above}/{to}".strip("/")
        paths = {"mkdir": [target], "move": [path, target], "delete": [path]}[change.action]
        address = f"/files?{'&'.join(map(_quoted, paths))}"
        try:
            if change.field and not (to and is_printable(to)):
                raise ActionDenied("Invalid", "A name has at least one character, all printable.")
            async with self._stream(request, user, "upload", change.method, address) as found:
                is_hashed = self._settings.hash_file_names
                shown = [show_name(path, is_hashed=is_hashed) for path in paths]
                detail = dict(zip(("path", "to"), shown, strict=False))
                act = act_on(found[0], user.email, f"files.{change.action}", detail)
                await self._services.audit.record(act, DONE)
        except ActionDenied as why:
            return await self.ask_change(change, request, user, why.sentence, why.status)
        name = quote(escape(paths[0].rpartition("/")[2]))
        where = f"/desktops/{_name(request)}/files?path={_quoted(above)}{_hidden(request)}"
        return RedirectResponse(f"{where}&done=file-{change.action}&name={name}", 303)

    @asynccontextmanager
    async def _stream(
        self,
        request: Request,
        user: User,
        way: Direction,
        method: str,
        address: str,
        **options: Unpack[RequestOptions],
    ) -> AsyncIterator[tuple[VDISession, ResponseStream]]:
        """The desktop and its agent's response. Raises ActionDenied."""
        path = _path(request)
        await find_to_act(self._services.context, user, Action.BROWSE, _name(request))
        session, agents = self._find(request, user, way), self._services.agents
        why = "Too many requests for files of this desktop in a minute."
        await agents.limit("files", session, MAX_REQUESTS, why)
        async with agents.agent.stream(session, method, address, lane=FILES, **options) as answer:
            if answer.status != HTTPStatus.OK:
                why = escape((await answer.start(200)).decode(errors="replace"))
                code = "NotFound" if answer.status == HTTPStatus.NOT_FOUND else "Conflict"
                raise ActionDenied(code, f"{escape(path) or 'The home'}: {why}.")
            yield session, answer

    @asynccontextmanager
    async def _ask(
        self,
        request: Request,
        user: User,
        way: Direction,
        where: str = "/files",
        **options: Unpack[RequestOptions],
    ) -> AsyncIterator[ResponseStream]:
        """The agent's response. The audit has downloads that have begun, uploads that are complete,
        and the bytes of zips that are over.
        """
        path = _path(request)
        method, address = "PUT" if way == "upload" else "GET", f"{where}?{_quoted(path)}"
        async with self._stream(request, user, way, method, address, **options) as found:
            session, answer = found
            if way == "download" and where == "/files":
                yield answer
                return
            length = (request if way == "upload" else answer).headers.get("Content-Length", "")
            shown = show_name(path, is_hashed=self._settings.hash_file_names)
            act = act_on(session, user.email, f"files.{way}", {"path": shown, "bytes": length})
            act, audit = replace(act, id=uuid4().hex), self._services.audit
            is_zip = way == "download" and not length
            await audit.record(act, BEGUN if is_zip else DONE)
            try:
                yield answer
            finally:
                if is_zip:
                    detail = {"path": shown, "bytes": str(answer.piece_bytes)}
                    # Not `record`: the browser may have left, and this task is cancelled then.
                    await audit.record_soon(replace(act, detail=detail))

    def _find(self, request: Request, user: User, direction: Direction) -> VDISession:
        """The running desktop whose files the user may copy in this direction now. Raises
        ActionDenied.
        """
        session, _ = find_session(self._services.context, user, _name(request))
        if refused := refusal(user, Action.BROWSE, session, self._clock()):
            raise ActionDenied(*refused)
        if direction not in file_transfers(self._cluster.template(session.spec.template)):
            why = f"Your administrator does not allow the {direction} of files of this desktop."
            raise ActionDenied("Forbidden", why)
        if not is_running(session):
            raise ActionDenied(
                "Conflict", "The desktop is not running. Its files are shown while it runs."
            )
        if why := refuse_picture(session):
            raise ActionDenied("Conflict", why)
        return session


async def _close(content: AsyncGenerator[bytes, None]) -> None:
    # Starlette would call the method itself in a thread, which awaits nothing.
    await content.aclose()


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    return name


def _path(request: Request) -> str:
    """`path` of the address; Starlette would lose bytes that are not UTF-8."""
    found = parse_qs(request.url.query, errors="surrogateescape").get("path", [""])[0]
    return "/".join(filter(None, found.split("/")))


def _folder_of(change: _Change, path: str) -> str:
    """The folder whose page leads to the change."""
    return path if change.action == "mkdir" else path.rpartition("/")[0]


def _hidden(request: Request) -> str:
    """The part of an address that shows hidden files; empty where it is not set."""
    return "&hidden=1" if request.query_params.get("hidden") == "1" else ""


def _quoted(path: str) -> str:
    return quote(path, errors="surrogateescape")


def _row(at: str, entry: _Entry) -> tuple[_Entry, str, str, datetime]:
    """An entry with its name, its path for an address, and its time."""
    name = unquote(entry.name, errors="surrogateescape")
    return entry, name, at + _quoted(name), datetime.fromtimestamp(entry.modified, UTC)
