"""What a browser sees when something is refused or fails: a page in words, a fragment for htmx, a line for scripts."""

import logging
from http import HTTPStatus

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ExceptionHandler

from vdi.gateway.denied import ActionDenied
from vdi.gateway.settings import Settings
from vdi.gateway.shared_state import SharedUnavailableError
from vdi.gateway.store.base import DatabaseUnavailableError
from vdi.gateway.web.render import Renderer

log = logging.getLogger(__name__)

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


class ErrorPages:
    """The exception handlers of the portal's and the desktops' hosts."""

    def __init__(self, settings: Settings) -> None:
        self._renderer = Renderer(settings)

    def handlers(self) -> dict[int | type[Exception], ExceptionHandler]:
        """For Starlette."""
        return {
            HTTPException: self._http,
            ActionDenied: self._refused,
            DatabaseUnavailableError: self._no_database,
            SharedUnavailableError: self._nothing_shared,
            Exception: self._unexpected,
        }

    def _answer(self, request: Request, status: int, sentence: str, headers: dict[str, str] | None = None) -> Response:
        """The refusal as whoever asked can read it."""
        wants_page = "text/html" in request.headers.get("accept", "") and request.headers.get("hx-request") != "true"
        if wants_page:
            title = _TITLES.get(status, HTTPStatus(status).phrase)
            answer = self._renderer.render(
                request, "error.html", status=status, title=title, sentence=sentence, back=""
            )
        else:
            answer = PlainTextResponse(sentence + "\n", status)
        answer.headers.update(headers or {})
        return answer

    async def _http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)  # noqa: S101 -- by its entry in `handlers`
        headers = dict(error.headers or {})
        if "Location" in headers:
            return RedirectResponse(headers.pop("Location"), error.status_code, headers)
        standard = HTTPStatus(error.status_code).phrase
        sentence = _WORDS.get(error.status_code, standard) if error.detail in (standard, "") else error.detail
        return self._answer(request, error.status_code, sentence, headers)

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, ActionDenied)  # noqa: S101 -- by its entry in `handlers`
        return self._answer(request, error.status, error.sentence)

    async def _no_database(self, request: Request, error: Exception) -> Response:
        log.error("%s %s: %s", request.method, getattr(request.scope.get("route"), "path", ""), error)
        sentence = (
            "The portal cannot reach its database right now. Open desktops are not affected. Try again in a minute."
        )
        return self._answer(request, 503, sentence, {"Retry-After": "10"})

    async def _nothing_shared(self, request: Request, error: Exception) -> Response:
        log.error("%s %s: %s", request.method, getattr(request.scope.get("route"), "path", ""), error)
        sentence = (
            "Signing in and new connections are not possible right now. Open desktops are not affected. Try again in a "
            "minute."
        )
        return self._answer(request, 503, sentence, {"Retry-After": "10"})

    async def _unexpected(self, request: Request, _error: Exception) -> Response:
        return self._answer(request, 500, _WORDS[500])
