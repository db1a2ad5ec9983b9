"""Hostile text in every field that somebody else may fill: no page and no stream lets any of it
become markup.
"""

import re
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from support.variants import first_of
from unit.gateway.portal_stage import ADMIN, ALICE, PortalStage, a_session, a_template
from unit.gateway.test_attack_markup import MARK, PROBES, read_markup
from unit.gateway.test_portal_admin import PATHS
from vdi.api.pool import VDIPool
from vdi.cluster.units import parse_time
from vdi.findings.model import Finding, Remedy, Severity
from vdi.gateway.denied import ActionDenied
from vdi.gateway.doctor import Report
from vdi.gateway.limits import Limit, Limits
from vdi.gateway.portal import pages
from vdi.gateway.portal.admin import overview_pieces, sessions_page_pieces
from vdi.gateway.portal.component import message
from vdi.gateway.rights import User
from vdi.gateway.store.history import EndReason, RunRow, SessionRow

# The last one breaks out of an event of a stream.
HOSTILE = (
    *PROBES,
    f"\n\nevent: bye\ndata: <{MARK} on{MARK}=1>\n\n",
    f"-->]]><!--<iframe srcdoc='<{MARK}>'>",
)
SOMEBODY = User("alice@example.com", "", admin=True, login_id="login")


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
    texts: dict[str, Any] = {
        "displayName": bad,
        "description": bad,
        "icon": f"data:image/png,{bad}",
        "image": bad,
    }
    stage.put(
        a_template("evil", **texts, access={"groups": [bad]}),
        a_template("icon", icon=bad),
        a_session("mine", template="evil", status=status, access=guests),
        a_session(
            "waits",
            template=bad,
            status=status | {"phase": "Pending", "queue": {"position": 1, "reason": bad}},
        ),
        a_session(
            "fails",
            user=user,
            template="evil",
            status=status | {"phase": bad},
            access=[{"user": ALICE.email}],
        ),
        a_session(
            bad, status=status
        ),  # no API server takes such a name; the pages do not rely on that
        msgspec.convert(
            {"metadata": {"name": bad}, "spec": {"template": bad}, "status": {"message": bad}},
            VDIPool,
        ),
    )
    stage.cluster.nodes = [
        {"metadata": {"name": bad}, "spec": {}, "status": {"allocatable": {"nvidia.com/gpu": "8"}}}
    ]
    at = parse_time("2026-11-20T09:00:00Z")
    row = SessionRow(
        uid="uid-mine", name=bad, namespace=bad, owner=ALICE.email, template=bad, created=at
    )
    gone = msgspec.structs.replace(
        row, uid="u2", ended=at, end_reason=EndReason.ADMIN, ended_by=bad, owner=user
    )
    run = RunRow(
        uid="uid-mine",
        start=at,
        node=bad,
        pod=bad,
        ended=at,
        end_reason=EndReason.FAILED,
        end_detail=bad,
    )
    stage.remember(row, run)
    stage.remember(gone, msgspec.structs.replace(run, uid="u2"))
    stage.enter_act(
        bad, bad, bad, address=bad, target_uid=bad, target_owner=bad, outcome=bad, detail={bad: bad}
    )
    fields: dict[str, Any] = {"code": bad, "object": bad, "message": bad}
    finding = Finding(
        **fields, severity=Severity.ERROR, evidence=(bad,), remedy=Remedy(bad, (bad,))
    )
    stage.services.doctor.last = Report(
        at, bad, [finding, msgspec.structs.replace(finding, caused_by=bad)], unknown=1
    )
    return stage


PAGES = (
    *("/", "/shared", "/catalogue", "/catalogue/evil", "/catalogue/icon"),
    *("/desktops/mine", "/desktops/mine/end", "/desktops/waits", "/desktops/fails"),
    *("/history", "/history?of=everyone", "/history/usage?of=everyone"),
    *(f"/admin{path}" for path in PATHS),
)


@pytest.mark.parametrize("bad", first_of(HOSTILE))
async def test_no_page_lets_a_field_become_markup(bad: str) -> None:
    stage = furnish(bad)
    browser = stage.browser(replace(SOMEBODY, name=bad, groups=frozenset({bad})))
    for path in PAGES:
        answer = await browser.get(path)
        assert answer.status_code == 200, path
        read_markup(answer.text, path)
    stage.cluster.refuses = ActionDenied("Invalid", bad)
    refused = await browser.post("/desktops/mine/end", at="/desktops/mine/end")
    assert (refused.status_code, MARK in read_markup(refused.text, "refused").text) == (422, True)


@pytest.mark.parametrize("bad", first_of(HOSTILE))
async def test_no_live_piece_lets_a_field_become_markup_or_event(bad: str) -> None:
    stage = furnish(bad)
    views = [pages.list_of(here, stage.services, ADMIN) for here in ("desktops", "shared")]
    views += [pages.list_of("desktops", stage.services, ALICE), pages.ended_pieces(bad)]
    views += [
        sessions_page_pieces(stage.services, ADMIN, {}),
        overview_pieces(stage.services, ADMIN),
    ]
    for pieces in [
        *views,
        *(pages.page_of(stage.services, ADMIN, name) for name in ("mine", "waits", "fails")),
    ]:
        assert pieces
        for piece in pieces.values():
            read_markup(piece, "a live piece")
        names = re.findall(r"(?m)^event: ?(.*)$", message(pieces).decode())
        of_page = [name for name in pieces if not name.startswith("item-uid-")]
        assert [name for name in names if not name.startswith("item-uid-")] == of_page
