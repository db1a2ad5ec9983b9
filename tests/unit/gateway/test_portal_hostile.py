"""Hostile text in every field that somebody else may fill: no page and no stream lets any of it become markup."""

import html
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import msgspec
import pytest

from support.variants import first_of
from unit.gateway.portal_stage import ADMIN, ALICE, PortalStage, a_session, a_template
from vdi.api.pool import VDIPool
from vdi.api.session import VDISession
from vdi.cluster.units import parse_time
from vdi.findings.model import Finding, Remedy, Severity
from vdi.gateway.denied import ActionDenied
from vdi.gateway.doctor import Report
from vdi.gateway.history.usage import Usage
from vdi.gateway.limits import Limit, Limits
from vdi.gateway.portal import pages
from vdi.gateway.portal.admin import overview_pieces, sessions_page_pieces
from vdi.gateway.portal.component import message
from vdi.gateway.rights import User
from vdi.gateway.store.history import EndReason, RunRow, SessionRow

HOSTILE = (
    """"><script>alert(1)</script>""",
    """' onmouseover='alert(1)' zz='""",
    """" autofocus onfocus="alert(1)" zz=\"""",
    """</textarea></title></select><img src=x onerror=alert(1)>""",
    """<svg/onload=alert(1)>""",
    """javascript:alert(1)//\"><a href="javascript:alert(2)">""",
    """{{ 7 * 19871 }}{% include "base.html" %}""",
    """\n\nevent: bye\ndata: <img src=x onerror=alert(1)>\n\n""",
    """-->]]><!--<iframe srcdoc="<script>alert(1)</script>">""",
)
SOMEBODY = User("alice@example.com", "", admin=True, login_id="login")
ALLOWED = {
    *[
        "a",
        "article",
        "body",
        "br",
        "button",
        "caption",
        "code",
        "dd",
        "details",
        "dialog",
        "div",
        "dl",
        "dt",
        "form",
        "h1",
        "h2",
        "head",
        "datalist",
        "fieldset",
        "header",
        "html",
        "img",
        "input",
        "label",
        "legend",
        "li",
    ],
    *[
        "link",
        "main",
        "meta",
        "meter",
        "nav",
        "noscript",
        "ol",
        "option",
        "p",
        "path",
        "pre",
        "progress",
        "rect",
        "script",
        "section",
        "select",
        "small",
        "span",
        "strong",
    ],
    *[
        "circle",
        "ellipse",
        "figcaption",
        "figure",
        "line",
        "polyline",
        "summary",
        "svg",
        "table",
        "tbody",
        "td",
        "th",
        "thead",
        "time",
        "title",
        "tr",
        "ul",
    ],
}


class Looker(HTMLParser):
    """Notes everything in a page that none of our templates has."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ALLOWED:
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            if name.startswith("on") or name in ("style", "srcdoc", "zz"):
                self.wrong.append(f"{tag} {name}={value}")
            if name in ("href", "src", "action", "formaction", "hx-get", "sse-connect"):
                self._look_at(tag, name, value or "")
        if tag == "script" and not dict(attrs).get("src", "").startswith("/static/"):  # type: ignore[union-attr]
            self.wrong.append("a script of its own")

    def _look_at(self, tag: str, name: str, value: str) -> None:
        picture = tag == "img" and value.startswith("data:image/")
        if not (value.startswith(("/", "#", "https://")) or picture):
            self.wrong.append(f"{tag} {name}={value}")

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def look(page: str) -> Looker:
    looker = Looker()
    looker.feed(page)
    looker.close()
    assert looker.wrong == []
    return looker


def furnish(bad: str) -> PortalStage:
    """A stage whose every text is `bad`."""
    user = f"{bad}@example.com"
    stage = PortalStage(limits=Limits(groups={bad: Limit(sessions=1)}, users={user: Limit(gpus=1)}))
    condition = {"type": "Expiring", "status": "True", "reason": bad, "message": bad}
    status: dict[str, Any] = {
        "phase": "Running",
        "url": f"https://{bad}",
        "message": bad,
        "startTime": "2026-11-20T09:00:00Z",
        "expiresAt": "2026-11-20T17:00:00Z",
        "podName": bad,
        "nodeName": bad,
        "conditions": [condition],
        "failures": {"count": 1, "message": bad},
    }
    guests = [{"user": user, "role": "viewer"}]
    stage.put(
        a_template(
            "evil", displayName=bad, description=bad, icon=f"data:image/png,{bad}", image=bad, access={"groups": [bad]}
        ),
        a_template("icon", icon=bad),
        a_session("mine", template="evil", status=status, access=guests),
        a_session("waits", template=bad, status=status | {"phase": "Pending", "queue": {"position": 1, "reason": bad}}),
        a_session("fails", user=user, template="evil", status=status | {"phase": bad}, access=[{"user": ALICE.email}]),
        named(bad, status),
        msgspec.convert({"metadata": {"name": bad}, "spec": {"template": bad}, "status": {"message": bad}}, VDIPool),
    )
    stage.cluster.nodes = [{"metadata": {"name": bad}, "spec": {}, "status": {"allocatable": {"nvidia.com/gpu": "8"}}}]
    at = parse_time("2026-11-20T09:00:00Z")
    row = SessionRow(uid="uid-mine", name=bad, namespace=bad, owner=ALICE.email, template=bad, created=at)
    gone = msgspec.structs.replace(row, uid="u2", ended=at, end_reason=EndReason.ADMIN, ended_by=bad, owner=user)
    run = RunRow(uid="uid-mine", start=at, node=bad, pod=bad, ended=at, end_reason=EndReason.FAILED, end_detail=bad)
    stage.remember(row, run)
    stage.remember(gone, msgspec.structs.replace(run, uid="u2"))
    stage.enter_act(bad, bad, bad, address=bad, target_uid=bad, target_owner=bad, outcome=bad, detail={bad: bad})
    finding = Finding(
        code=bad, severity=Severity.ERROR, object=bad, message=bad, evidence=(bad,), remedy=Remedy(bad, (bad,))
    )
    stage.services.doctor.last = Report(at, bad, [finding, msgspec.structs.replace(finding, caused_by=bad)], unknown=1)
    return stage


def named(bad: str, status: dict[str, Any]) -> VDISession:
    """No API server takes such a name; the pages do not rely on that."""
    return a_session(bad, status=status)


def usage(user: str) -> Usage:
    return Usage(
        name=user,
        month="2026-11",
        sessions=1,
        runs=1,
        hours=1.0,
        gpu_hours=1.0,
        queued=0,
        median_queue_seconds=None,
        median_startup_seconds=None,
    )


PAGES = (
    "/",
    "/shared",
    "/catalogue",
    "/catalogue/evil",
    "/catalogue/icon",
    "/desktops/mine",
    "/desktops/mine/end",
    "/desktops/waits",
    "/desktops/fails",
    "/history",
    "/history?of=everyone",
    "/history/usage?of=everyone",
    "/admin",
    "/admin/sessions",
    "/admin/templates",
    "/admin/pools",
    "/admin/limits",
    "/admin/doctor",
    "/admin/audit",
)


@pytest.mark.parametrize("bad", HOSTILE)
async def test_no_page_lets_a_field_become_markup(bad: str) -> None:
    stage = furnish(bad)
    browser = stage.browser(replace(SOMEBODY, name=bad, groups=frozenset({bad})))
    for path in PAGES:
        answer = await browser.get(path)
        assert answer.status_code == 200, path
        look(answer.text)
        assert "139097" not in answer.text, "a template ran inside a field"


@pytest.mark.parametrize("bad", first_of(HOSTILE))
async def test_no_address_lets_its_own_text_become_markup(bad: str) -> None:
    stage = furnish(bad)
    browser = stage.browser(SOMEBODY)
    for path in ("/catalogue", "/admin/sessions", "/admin/audit", "/history", "/", "/desktops/mine", "/history/usage"):
        for name in ("q", "phase", "template", "order", "actor", "action", "target", "user", "name", "done", "month"):
            answer = await browser.client.get(path, params={name: bad, "of": "everyone"})
            assert answer.status_code in (200, 400, 422)
            look(answer.text)
    for path in ("/desktops/", "/catalogue/", "/desktops/mine/"):
        answer = await browser.client.get(path + bad.replace("/", "%2F").replace("\n", "%0A").replace("#", "%23"))
        look(answer.text)


@pytest.mark.parametrize("bad", HOSTILE)
async def test_what_was_typed_and_refused_comes_back_as_text(bad: str) -> None:
    stage = furnish(bad)
    stage.cluster.refuses = ActionDenied("Invalid", bad)
    browser = stage.browser(SOMEBODY)
    shared = await browser.post("/desktops/mine/share", at="/desktops/mine", user=bad, role="viewer", **{"for": "1h"})
    assert shared.status_code == 422
    assert bad.strip() in "".join(look(shared.text).text) or bad.strip() in html.unescape(shared.text)
    started = await browser.post("/catalogue/evil", at="/catalogue/evil", name=bad, memory="4Gi", home="yes")
    assert started.status_code == 422
    look(started.text)
    ended = await browser.post("/desktops/mine/end", at="/desktops/mine/end")
    look(ended.text)


@pytest.mark.parametrize("bad", HOSTILE)
async def test_no_live_piece_lets_a_field_become_markup_or_another_event(bad: str) -> None:
    stage = furnish(bad)
    views = [pages.list_of(here, stage.services, ADMIN) for here in ("desktops", "shared")]
    views += [pages.list_of("desktops", stage.services, ALICE)]
    for name in ("mine", "waits", "fails"):
        pieces = pages.page_of(stage.services, ADMIN, name)
        assert pieces
        views.append(pieces)
    views += [
        sessions_page_pieces(stage.services, ADMIN, {}),
        overview_pieces(stage.services, ADMIN),
        pages.ended_pieces(bad),
    ]
    for pieces in views:
        for piece in pieces.values():
            look(piece)
        names = [
            line.removeprefix("event: ") for line in message(pieces).decode().split("\n") if line.startswith("event:")
        ]
        assert [name for name in names if not name.startswith("item-uid-")] == [
            name for name in pieces if not name.startswith("item-uid-")
        ]


async def test_pictures_are_shown_only_where_they_carry_their_own_bytes() -> None:
    stage = PortalStage()
    for number, icon in enumerate(
        (
            "https://evil.example.com/x.png",
            "data:text/html,<b>",
            "//evil.example.com",
            "DATA:image/png,x",
            " data:image/png,x",
        )
    ):
        stage.put(a_template(f"t{number}", icon=icon))
    stage.put(a_template("good", icon="data:image/png;base64,AA=="))
    page = (await stage.browser().get("/catalogue")).text
    assert page.count("<img") == 1
    assert '<img src="data:image/png;base64,AA=="' in page
    assert "evil.example.com" not in page
