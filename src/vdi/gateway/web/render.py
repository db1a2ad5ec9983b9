"""Pages from templates, for the portal, the login and the waiting pages of desktops.

Templates lie in the `templates` folder of each of these packages; their names are unique across the three.
`base.html` has the portal's navigation, `plain.html` is one card on an empty page. Both have blocks `title`, `main`.
Everything that is put into a template is escaped, and so is what is not printable: a direction mark in a name could
turn round the text beside it. What a template does not get is an error, never an empty string.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from vdi.gateway.settings import Settings
from vdi.gateway.web import csrf, template_filters
from vdi.gateway.web.assets import asset_url
from vdi.printable import escape, is_printable

_GATEWAY = Path(__file__).parent.parent
_LAYOUT = "\n\r\t"
TEMPLATE_FOLDERS = tuple(_GATEWAY / package / "templates" for package in ("portal", "login", "edge"))


def _printable(value: Any) -> Any:
    """What `{{ }}` puts into a page; Markup too, since a macro has put names into it."""
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
    environment.globals["csrf_field"] = csrf.field_of
    return environment


_ENVIRONMENT = _environment()


def macro(template: str, name: str) -> Callable[..., str]:
    """A macro of a template such as `parts.html`, for pieces that need no request. Its arguments are escaped."""
    found: Callable[..., str] = getattr(_ENVIRONMENT.get_template(template).module, name)
    return found


class Renderer:
    """Makes responses from templates."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def render(self, request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
        """A page. `person` (or None) among the context decides what `base.html` shows of the navigation."""
        return HTMLResponse(self.fill(request, template, **context), status)

    def fill(self, request: Request, template: str, **context: Any) -> str:
        """A template's text, for pages and for fragments of pages."""
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
        """Where the files of `static/` lie: a desktop's host has everything of ours under `/.vdi/`."""
        host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
        prefix = "/static" if host.lower() == self._settings.portal_host else "/.vdi/static"
        return lambda name: asset_url(self._settings.brand, prefix, name)
