"""XSS in every name that somebody else controls, on every page: walked by the route tables, with
the whole gateway, so that neither a new page nor a new field of an old one can be forgotten.

One person has filled in everything that anybody may: the display name, groups and browser of a
login, the texts of templates, sessions, pools and nodes, guests, what the audit and the history
keep, the names of tokens, every field of every form and every parameter of every address.
"""

from collections.abc import AsyncIterator
from html.parser import HTMLParser
from itertools import product
from pathlib import Path
from typing import Any

import httpx
import pytest

from support.waiting import eventually
from unit.gateway.attack_stage import (
    DESKTOP,
    READS,
    AttackStage,
    form_token,
    furnish,
    open_attack_stage,
)
from unit.gateway.ended_recording import save_recording
from unit.gateway.gateway_stage import NAVIGATION, PORTAL, Browser
from unit.kube.kube_fake_api import FakeApi, fake_api
from vdi.gateway.edge.wait import OPEN_SCRIPT
from vdi.gateway.login.logins import SOURCE_OIDC, Device, Identity
from vdi.gateway.rights import Action
from vdi.gateway.store.audit import Act
from vdi.gateway.web.middleware import digest_of
from vdi.printable import is_printable
from vdi.session.homes import LAST_USED
from vdi.session.naming import MANAGED_BY, TEMPLATE_ANNOTATION, USER_ANNOTATION

MARK = "zzprobe"
RUNS, WAITS, FAILS = (f"https://{name}.vdi.localhost" for name in ("runs", "waits", "fails"))
# One hides and turns round what is beside it, and breaks out of tags, quotes and templates; one is
# an address, and attributes where a value has no quotes.
PROBES = (
    (
        f"\u202e\u2066\u200b\x9b2J\"'><{MARK}"
        f" on{MARK}=1></title></textarea></select></script><{MARK}>\" on{MARK}=\"1\" ' on{MARK}='1'"
        f" {{{{ '{MARK}' * 3 }}}}{{% raw %}}"
    ),
    f"javascript:{MARK}() on{MARK}=1 ",
)
OWNER = "alice@example.com"
# Of forms and of addresses.
FIELDS = (
    "user", "name", "label", "days", "role", "timeout", "length", "next", "q", "phase", "template", "order", "actor",
    "action", "target", "done", "month", "before", "page", "of", "redirect_uri", "state", "code_challenge", "client",
    "code_challenge_method", "host", "ticket", "memory", "cpu", "ephemeral_storage", "gpu", "timeout", "idle", "home",
    "error", "code", "time", "time_zone", "path", "hidden",
)  # fmt: skip
# Of a desktop; the last one deletes what the others need.
_ACTIONS = sorted(Action, key=lambda action: action is Action.END)
# What the agent in the desktop is asked for, which does not respond here.
OF_THE_AGENT = ("/desktops/{name}/thumbnail", "/api/v1/sessions/{name}/startup-scripts")
STREAMS = {"/events", "/api/v1/events", "/.vdi/events", "/.vdi/presence"}
# Routes that answer a GET with something else; the API's addresses bring JSON.
NO_PAGES = {
    "/desktops/{name}/thumbnail", "/desktops/{name}/files/content",
    "/.well-known/jwks.json", "/static/{name:path}",
    "/api/{rest:path}", "/desktops/{name}/open",
    "/.vdi/static/{name:path}",
}  # fmt: skip
# Answered with a page only to who is not logged in, or for a name of ours, or comes with what is
# wrong.
ELSEWHERE = {
    *(
        "/help/{name}",
        "/login",
        "/login/oidc",
        "/login/oidc/back",
        "/logged-out",
        "/enter",
        "/.vdi/start",
        "/cli/authorize",
    ),
}


class Looker(HTMLParser):
    """Finds what a probe has become: a tag, an attribute, an address of its own; collects scripts,
    and what is text.
    """

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []
        self.text = ""
        self.scripts: list[str] = []
        self._in_script = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if MARK in tag or tag == "style":
            self.wrong.append(f"<{tag}>")
        self._in_script = tag == "script" and "src" not in dict(attrs)
        if self._in_script:
            self.scripts.append("")
        for name, value in attrs:
            self.text += value or ""
            if MARK in name or name == "style" or name.startswith("on"):
                self.wrong.append(f"<{tag} {name}>")
            leads = name in (
                "href",
                "src",
                "action",
                "formaction",
                "hx-get",
                "hx-post",
                "sse-connect",
                "content",
            )
            if leads and (value or "").strip().lower().startswith("javascript:"):
                self.wrong.append(f"<{tag} {name}={value}>")

    def handle_data(self, data: str) -> None:
        self.text += data
        if self._in_script:
            self.scripts[-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._in_script = False


def look(answer: httpx.Response, what: str) -> bool:
    """Whether the answer is a page that shows a probe; as text, or the test fails."""
    kind = answer.headers.get("content-type", "")
    assert answer.headers["x-content-type-options"] == "nosniff", what
    location = answer.headers.get("location", "/")
    assert location.startswith(("/", PORTAL, DESKTOP, RUNS, WAITS, FAILS)), what
    assert not location.startswith(("//", "/\\")), what
    if not kind.startswith("text/html"):
        assert kind.partition(";")[0] not in (
            "image/svg+xml",
            "text/xml",
            "application/xhtml+xml",
        ), what
        return False
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy, what
    assert "unsafe" not in policy, what
    looker = read_markup(answer.text, what)
    assert all(
        script == OPEN_SCRIPT and digest_of(script) in policy for script in looker.scripts
    ), what
    return MARK in looker.text


def read_markup(text: str, what: str) -> Looker:
    """The page or piece; the test fails where a probe has become markup."""
    looker = Looker()
    looker.feed(text)
    looker.close()
    assert looker.wrong == [], what
    assert is_printable(text, "\n\r\t"), what
    assert MARK * 3 not in text, f"{what}: a template ran inside a field"
    return looker


def fill_in(api: FakeApi, bad: str) -> None:
    """Every text of every object."""
    access = [{"user": f"{bad}@example.com", "role": "viewer"}]
    spec = {"image": bad, "displayName": bad, "description": bad, "icon": f"data:image/png,{bad}"}
    api.put(
        "vditemplates",
        "evil",
        namespace="",
        spec={**spec, "access": {"users": [OWNER, bad], "groups": [bad]}},
    )
    api.put(
        "vdipools", "evil", namespace="", spec={"template": bad, "size": 1}, status={"message": bad}
    )
    run = {
        "startTime": "2026-11-20T08:00:00Z",
        "expiresAt": "2036-11-20T17:00:00Z",
        "podName": bad,
        "nodeName": bad,
    }
    reported = {
        "message": bad,
        "conditions": [{"type": "Expiring", "status": "True", "reason": bad, "message": bad}],
    }
    waits = {"queue": {"position": 1, "reason": bad}}
    failed = {"failures": {"count": 1, "message": bad}}
    for name, user, template, status in (
        ("runs", OWNER, "evil", {"phase": "Running", "url": RUNS, **run, **reported}),
        ("waits", OWNER, bad, {"phase": "Pending", "url": WAITS, **reported, **waits}),
        ("fails", OWNER, "evil", {"phase": "Failed", "url": FAILS, **run, **reported, **failed}),
        (
            "shared",
            f"{bad}@example.com",
            bad,
            {"phase": "Running", "url": f"https://{bad}", **run, **reported},
        ),
    ):
        guests = access if user == OWNER else [{"user": OWNER, "role": "viewer"}]
        made = {"creationTimestamp": "2026-11-20T08:00:00Z"}
        session: dict[str, Any] = {"user": user, "template": template, "access": guests}
        api.put(
            "vdisessions",
            name,
            namespace="vdi-sessions",
            metadata=made,
            spec=session,
            status=status,
        )
    noted = {
        "annotations": {USER_ANNOTATION: OWNER, TEMPLATE_ANNOTATION: bad, LAST_USED: bad},
        "labels": MANAGED_BY,
    }
    home = {
        "storageClassName": bad,
        "accessModes": [bad],
        "resources": {"requests": {"storage": bad}},
    }
    api.put("persistentvolumeclaims", "shared", namespace="vdi-sessions", metadata=noted, spec=home)
    api.put("nodes", bad, namespace="", spec={}, status={"allocatable": {"nvidia.com/gpu": "8"}})


async def somebody(stage: AttackStage, bad: str) -> Browser:
    """An administrator, all of whose texts are the probe."""
    who = Identity(user=OWNER, name=bad, groups=frozenset({bad}), admin=True, source=SOURCE_OIDC)
    browser = await stage.logged_in(who, Device(bad, bad))
    detail = {"source": bad}
    await stage.gateway.services.audit.record(
        Act(actor=bad, action=bad, target=bad, detail=detail), bad
    )
    browser.headers.update(NAVIGATION)
    token = {"csrf": form_token(browser), "label": bad[:60], "days": "30"}
    made = await browser.post("/account/tokens", data=token, headers={"Origin": PORTAL})
    assert made.status_code in (200, 201, 303, 422), made.text
    return browser


@pytest.fixture(
    params=[PROBES[0], *(pytest.param(probe, marks=pytest.mark.long) for probe in PROBES[1:])],
    ids=str,
)
async def hostile(
    request: pytest.FixtureRequest, tmp_path: Path
) -> AsyncIterator[tuple[AttackStage, Browser, str]]:
    bad: str = request.param
    async with fake_api() as api:
        furnish(api)
        fill_in(api, bad)
        async with open_attack_stage(api, tmp_path) as stage:
            await eventually(
                lambda: stage.gateway.context.cluster.session("shared") is not None, "all is seen"
            )
            await save_recording(stage.gateway, tmp_path, bad, bad)
            yield stage, await somebody(stage, bad), bad


# Pages that certainly show what others have written: were the probe not there, nothing would be
# found anywhere.
SHOWN = {
    "/", "/shared", "/desktops/{name}", "/desktops/{name}/files", "/catalogue", "/catalogue/{template}", "/history",
    "/account", "/admin", "/admin/sessions", "/admin/templates", "/admin/pools", "/admin/audit",
    "/recordings", "/recordings/{id}",
}  # fmt: skip


@pytest.mark.timeout(60)
async def test_no_page_lets_a_name_become_markup(hostile: tuple[AttackStage, Browser, str]) -> None:
    stage, browser, bad = hostile
    pages, shown = set(), set()
    ways = [way for way in stage.ways() if way.method == "GET" and way.path not in STREAMS]
    for way in ways:
        for name in ("runs", "waits", "fails", "shared", bad.replace("/", "%2F")):
            template = "evil" if name == "runs" else name
            for query in ({}, dict.fromkeys(FIELDS, bad)):
                path = way.filled(name=name, template=template, action="end", id="recording")
                answer = await browser.get(path, params=query)
                what = f"GET {path} {query and 'with parameters'}: {answer.status_code}"
                assert answer.status_code < 500 or (
                    answer.status_code == 503 and way.path in OF_THE_AGENT
                ), what
                if look(answer, what):
                    shown.add(way.path)
                if answer.status_code == 200 and answer.headers["content-type"].startswith(
                    "text/html"
                ):
                    pages.add(way.path)
            if "{" not in way.path:
                break
    unseen = {way.path for way in ways} - pages - NO_PAGES - ELSEWHERE
    assert {path for path in unseen if not path.startswith("/api/v1/")} == set(), (
        "no page was seen there"
    )
    assert shown >= SHOWN


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_no_form_gives_back_markup(hostile: tuple[AttackStage, Browser, str]) -> None:
    """What was typed, and comes back beside its refusal."""
    stage, browser, bad = hostile
    shown = set()
    # These delete what forms need.
    for way in sorted(stage.ways(), key=lambda way: way.path.startswith("/api/")):
        if way.method in READS or way.path in ("/logout", "/account/logout-everywhere"):
            continue
        actions = _ACTIONS if "{action}" in way.path else [Action.EXTEND]
        for name, action in product(("runs", bad.replace("/", "%2F")), actions):
            path = way.filled(name=name, template="evil", action=action, id=name, user=name)
            fields = {**dict.fromkeys(FIELDS, bad), "csrf": form_token(browser)}
            headers = {"Origin": PORTAL, "X-CSRF-Token": form_token(browser)}
            if path.startswith("/api/"):
                answer = await browser.request(way.method, path, json=fields, headers=headers)
            else:
                answer = await browser.request(way.method, path, data=fields, headers=headers)
            what = f"{way.method} {path}: {answer.status_code}"
            assert answer.status_code < 500, what
            if look(answer, what):
                shown.add(path if name == "runs" else way.path)
    assert shown >= {"/catalogue/evil", "/desktops/runs/share", "/desktops/runs/schedule"}


@pytest.mark.long
@pytest.mark.timeout(60)
async def test_no_page_for_strangers_lets_a_name_become_markup(
    hostile: tuple[AttackStage, Browser, str],
) -> None:
    stage, browser, bad = hostile
    everything = dict.fromkeys(FIELDS, bad)
    no_one = stage.browser()
    no_one.headers.update(NAVIGATION)
    for way in stage.ways():
        if way.method == "GET" and way.path not in STREAMS:
            look(await no_one.get(way.filled(), params=everything), f"GET {way.path} by nobody")
    await browser.open(f"{WAITS}/")
    seen = 0
    for base in (WAITS, DESKTOP):
        for who in (browser, no_one):
            for way in stage.ways("desktop_routes"):
                if way.path in STREAMS:
                    continue
                answer = await who.request(way.method, base + way.filled(), params=everything)
                location = answer.headers.get("location", "/").replace(
                    "https://waits.", "https://alice-desktop."
                )
                answer.headers["location"] = location
                assert answer.status_code < 500 or answer.status_code == 503, way
                seen += look(answer, f"{way.method} {base} {way.path}")
    assert seen, "the waiting page shows the operator's words"
