"""The portal's page of homes."""

import msgspec
import pytest

from support.builders import a_session
from unit.gateway.portal_stage import ALICE, BOB, PortalStage, text_of
from vdi.gateway.denied import ActionDenied
from vdi.session.homes import HomeClaim
from vdi.session.naming import user_home_claim_name

MINE, THEIRS = user_home_claim_name(ALICE.email), user_home_claim_name(BOB.email)


@pytest.fixture
def stage() -> PortalStage:
    stage = PortalStage()
    for version, (name, user) in enumerate(((MINE, ALICE), (THEIRS, BOB)), 1):
        notes = {"vdi.kasm.io/user": user.email, "vdi.kasm.io/last-used": "2026-11-20T08:30:00Z"}
        meta = {"name": name, "namespace": "vdi-sessions", "uid": name, "annotations": notes}
        claim = {
            "metadata": meta | {"resourceVersion": str(version)},
            "status": {"capacity": {"storage": "10Gi"}},
        }
        stage.world.homes.observe(msgspec.convert(claim, HomeClaim))
    return stage


async def test_my_homes_with_size_and_last_use(stage: PortalStage) -> None:
    page = await stage.browser().html("/homes")
    assert "Files of all your desktops 10 GiB no desktop" in text_of(page)
    assert MINE not in text_of(page)
    assert 'datetime="2026-11-20T08:30:00Z"' in page and f'href="/homes/{MINE}/delete"' in page
    assert THEIRS not in page


async def test_a_home_with_a_desktop_is_not_offered_for_deletion(stage: PortalStage) -> None:
    stage.put(a_session("first", status={"homeClaim": MINE, "podName": "first"}))
    page = await stage.browser().html("/homes")
    assert 'href="/desktops/first/files"' in page and f"/homes/{MINE}/delete" not in page


async def test_a_home_is_deleted_after_a_question(stage: PortalStage) -> None:
    browser, path = stage.browser(), f"/homes/{MINE}/delete"
    assert "Files of all your desktops: delete?" in await browser.html(path)
    answer = await browser.post(path, at=path)
    assert answer.status_code == 303
    assert (
        answer.headers["location"]
        == "/homes?done=delete-home&name=Files%20of%20all%20your%20desktops"
    )
    assert stage.acts == [(ALICE.email, "home.delete", MINE, "done")]
    assert [home.metadata.name for home in stage.world.homes.values()] == [THEIRS]
    assert "Files of all your desktops are being deleted." in await browser.html(
        answer.headers["location"]
    )


async def test_a_refusal_is_said_on_the_page(stage: PortalStage) -> None:
    stage.cluster.refuses = ActionDenied("Conflict", "End it first.")
    browser = stage.browser()
    answer = await browser.post(f"/homes/{MINE}/delete", at=f"/homes/{MINE}/delete")
    assert (answer.status_code, "End it first." in answer.text) == (409, True)
