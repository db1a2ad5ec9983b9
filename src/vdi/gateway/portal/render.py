"""Pages from templates, for the portal, the login and the waiting pages of desktops.

Templates lie in the `templates` folder of each of these rooms; their names are unique across the three. `base.html` has
the portal's navigation, `plain.html` is one card on an empty page. Both offer the blocks `title` and `main`.
Everything that is put into a template is escaped; what a template does not get is an error, never an empty string.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from vdi.gateway.portal import words
from vdi.gateway.portal.assets import asset_url

_GATEWAY = Path(__file__).parent.parent
TEMPLATE_FOLDERS = tuple(_GATEWAY / room / "templates" for room in ("portal", "login", "edge"))


def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE_FOLDERS),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
        cache_size=-1,
    )
    environment.filters.update(words.FILTERS)
    environment.globals["csrf_field"] = _csrf_field
    return environment


def _csrf_field(request: Request) -> Any:
    # Imported late: the login's own pages are rendered here too.
    from vdi.gateway.login.guard import csrf_field

    return csrf_field(request)


_ENVIRONMENT = _environment()


def render(request: Request, template: str, *, status: int = 200, **context: Any) -> Response:
    """A page. `person` (or None) among the context decides what `base.html` shows of the navigation."""
    return HTMLResponse(fill(request, template, **context), status)


def fill(request: Request, template: str, **context: Any) -> str:
    """A template's text, for pages and for pieces of pages."""
    settings = request.app.state.gateway.settings
    given = {
        "person": None,
        "here": "",
        "request": request,
        "asset": _assets_for(request),
        "portal_url": settings.portal_url,
    }
    return _ENVIRONMENT.get_template(template).render(given | context)


def macro(template: str, name: str) -> Callable[..., str]:
    """A macro of a template such as `parts.html`, for pieces that need no request. Its arguments are escaped."""
    found: Callable[..., str] = getattr(_ENVIRONMENT.get_template(template).module, name)
    return found


def _assets_for(request: Request) -> Callable[[str], str]:
    """Where the files of `static/` lie: a desktop's host has everything of ours under `/.vdi/`."""
    settings = request.app.state.gateway.settings
    host = request.headers.get("host", "").rpartition(":")[0] or request.headers.get("host", "")
    prefix = "/static" if host.lower() == settings.portal_host else "/.vdi/static"
    return lambda name: asset_url(prefix, name)
