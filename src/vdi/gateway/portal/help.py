"""Pages below `/help`: the documentation for users (`docs/use`), as it came with the package."""

import re
from collections.abc import Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path

from markupsafe import Markup
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from vdi.gateway.portal.pages import PortalPages
from vdi.gateway.rights import User

# Parents of `docs/use` in a wheel or an image, and in a checkout.
_PLACES = (Path(__file__).resolve().parents[2] / "files", Path(__file__).resolve().parents[4])
_PICTURE = re.compile(r"^!\[.*\n?", re.MULTILINE)  # of the portal, which the reader has before them
_NO_WORD = re.compile(r"[^\w -]")
_LINK = re.compile(r"\]\(([a-z-]+)\.md")
_TABLE = '<div class="table-wrap" tabindex="0" role="group" aria-label="Table"><table>'


@cache
def help_pages() -> Mapping[str, tuple[str, Markup]]:
    """Title and body of each page, by the name of its file."""
    # When the first person asks for help: most processes never need it.
    from markdown_it import (
        MarkdownIt,
    )

    markdown = MarkdownIt("commonmark", {"html": False}).enable("table")
    files = [path for place in _PLACES for path in sorted((place / "docs" / "use").glob("*.md"))]
    help_by_name: dict[str, tuple[str, Markup]] = {}
    for file in files:
        text = _LINK.sub(r"](/help/\1", _PICTURE.sub("", file.read_text(encoding="utf-8")))
        heading, _, rest = text.partition("\n")
        tokens = markdown.parse(rest)
        for opening, content in pairwise(tokens):
            if opening.type == "heading_open":  # links lead to it
                opening.attrSet("id", _NO_WORD.sub("", content.content.lower()).replace(" ", "-"))
        html = markdown.renderer.render(tokens, markdown.options, {})
        body = html.replace("<table>", _TABLE).replace("</table>", "</table></div>")
        help_by_name[file.stem] = heading.removeprefix("# "), Markup(body)  # noqa: S704 -- a file of ours, and without HTML
    return help_by_name


class HelpPages(PortalPages):
    """The pages for users, one for each file."""

    def routes(self) -> list[Route]:
        return [self._get("/help", self.help), self._get("/help/{name}", self.help)]

    async def help(self, request: Request, user: User) -> Response:
        """GET /help: the list of pages; GET /help/{name}: one of them."""
        if page := help_pages().get(request.path_params.get("name", "index")):
            return self._page(request, user, "help.html", here="help", title=page[0], body=page[1])
        raise HTTPException(404)
