"""Pages from Jinja templates for portal, login and waiting pages, and the error pages of both
hosts.

Templates lie in the `templates` folder of each of these packages; their names are unique across the
three. `base.html` has the portal's navigation, `plain.html` is one card on an empty page. Both have
blocks `title`, `main`. Everything that is put into a template is escaped, and so is what is not
printable: a direction mark in a name could turn round the text beside it. A variable that a
template does not get is an error, never an empty string.
"""

import logging
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ExceptionHandler

from vdi.gateway.denied import ActionDenied
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.store.database import DatabaseUnavailableError
from vdi.gateway.web import credentials, template_filters
from vdi.gateway.web.assets import asset_url
from vdi.printable import escape, is_printable

_GATEWAY = Path(__file__).parent.parent
_LAYOUT = "\n\r\t"
TEMPLATE_FOLDERS = tuple(
    _GATEWAY / package / "templates" for package in ("portal", "login", "edge")
)
_TITLES = {
    403: "Not allowed",
    404: "Not found",
    409: "Not possible right now",
    422: "Not possible",
    500: "Internal error of the portal",
    503: "Not available right now",
}
_WORDS = {
    400: "The request cannot be read.",
    403: "This is not allowed.",
    404: "This page does not exist.",
    405: "This address does not support the method.",
    408: "The request was sent too slowly.",
    413: "The request is too large.",
    500: "Something went wrong in the gateway. Its log has the details.",
}
_UNAVAILABLE: dict[type[Exception], str] = {
    DatabaseUnavailableError: "The portal cannot reach its database",
    SharedUnavailableError: "Signing in and new connections are not possible",
}


def _printable(value: Any) -> Any:
    """The value of `{{ }}` with unprintable characters escaped; Markup too, since a macro has put
    names into it.
    """
    if not isinstance(value, str) or is_printable(value, _LAYOUT):
        return value
    kind = Markup if isinstance(value, Markup) else str
    return kind(escape(str(value), _LAYOUT))


def _environment() -> Environment:
    environment = Environment(
        finalize=_printable,
        loader=FileSystemLoader(TEMPLATE_FOLDERS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    environment.filters.update(template_filters.FILTERS)
    environment.globals["csrf_field"] = credentials.csrf_field_of
    return environment


_ENVIRONMENT = _environment()


def macro(template: str, name: str) -> Callable[..., str]:
    """A macro of a template such as `parts.html`, for pieces that need no request. Its arguments
    are escaped.
    """
    macro: Callable[..., str] = getattr(_ENVIRONMENT.get_template(template).module, name)
    return macro


class Renderer:
    """Renders templates with the variables that all of them have: user, request, addresses of
    static files, brand.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def render(
        self, request: Request, template: str, *, status: int = 200, **context: Any
    ) -> Response:
        """A page. `user` (or None) in the context decides which navigation `base.html` shows."""
        return HTMLResponse(self.fill(request, template, **context), status)

    def fill(self, request: Request, template: str, **context: Any) -> str:
        """The text of a template, for pages and for fragments of pages."""
        given = {
            "user": None,
            "here": "",
            "request": request,
            "asset": self._assets_for(request),
            "portal_url": self._settings.portal_url,
            "brand": self._settings.brand,
        }
        return _ENVIRONMENT.get_template(template).render(given | context)

    def _assets_for(self, request: Request) -> Callable[[str], str]:
        """Addresses of static files: on a desktop's host, everything of the gateway is under
        `/.vdi/`.
        """
        host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
        if host.lower() == self._settings.portal_host:
            prefix = "/static"
        else:
            prefix = "/.vdi/static"
        return lambda name: asset_url(self._settings.brand, prefix, name)


log = logging.getLogger(__name__)


class ErrorPages:
    """The exception handlers of the portal's and the desktops' hosts."""

    def __init__(self, settings: Settings) -> None:
        self._renderer = Renderer(settings)

    def handlers(self) -> dict[int | type[Exception], ExceptionHandler]:
        return dict.fromkeys(
            (HTTPException, ClientDisconnect, ActionDenied, *_UNAVAILABLE, Exception), self._respond
        )

    def _answer(
        self, request: Request, status: int, sentence: str, headers: dict[str, str] | None = None
    ) -> Response:
        """A page for a browser's navigation; plain text for htmx, which shows it in place, and for
        scripts.
        """
        wants_page = (
            "text/html" in request.headers.get("accept", "")
            and request.headers.get("hx-request") != "true"
        )
        if wants_page:
            title = _TITLES.get(status, HTTPStatus(status).phrase)
            answer = self._renderer.render(
                request, "error.html", status=status, title=title, sentence=sentence
            )
        else:
            answer = PlainTextResponse(sentence + "\n", status)
        answer.headers.update(headers or {})
        return answer

    async def _respond(self, request: Request, error: Exception) -> Response:
        match error:
            case HTTPException():
                headers = dict(error.headers or {})
                if "Location" in headers:
                    return RedirectResponse(headers.pop("Location"), error.status_code, headers)
                standard = HTTPStatus(error.status_code).phrase
                if error.detail in (standard, ""):
                    sentence = _WORDS.get(error.status_code, standard)
                else:
                    sentence = error.detail
                return self._answer(request, error.status_code, sentence, headers)
            case ClientDisconnect():  # no failure of ours, and so not in the log
                return self._answer(request, 400, _WORDS[400])
            case ActionDenied():
                return self._answer(request, error.status, error.sentence, error.headers)
            case DatabaseUnavailableError() | SharedUnavailableError():
                log.error(
                    "%s %s: %s",
                    request.method,
                    getattr(request.scope.get("route"), "path", ""),
                    error,
                )
                sentence = (
                    f"{_UNAVAILABLE[type(error)]} right now. Open desktops are not affected. Try"
                    " again in a minute."
                )
                return self._answer(request, 503, sentence, {"Retry-After": "10"})
            case _:
                return self._answer(request, 500, _WORDS[500])
