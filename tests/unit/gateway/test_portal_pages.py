"""What people see and send: lists, one desktop, what can be done there, and what is said when it
cannot.
"""

import re
from html import unescape
from typing import Any

import pytest

from unit.gateway.gateway_stage import NOW, a_past
from unit.gateway.portal_stage import (
    ADMIN,
    BOB,
    PortalStage,
    a_session,
    a_template,
    running,
    text_of,
)
from vdi.cluster.units import parse_time
from vdi.gateway.denied import ActionDenied
from vdi.gateway.store.history import EndReason, RunRow

PAGE = "/desktops/alice-desktop"
SHARE = {"user": "bob@example.com", "expires": "2026-11-20T14:00:00Z"}
SHARED = [SHARE]
COLLABORATOR = {"user": "bob@example.com", "role": "collaborator"}
CAROL = {"user": "carol@example.com", "role": "viewer"}


@pytest.fixture
def stage() -> PortalStage:
    return PortalStage(a_template(), running())


async def test_my_desktops_lists_mine_only_newest_first(stage: PortalStage) -> None:
    second = a_session("second", user="Alice@Example.com", created="2026-11-20T11:00:00Z")
    stage.put(
        running("bobs", user="bob@example.com", access=[{"user": "alice@example.com"}]), second
    )
    page = await stage.browser().html("/")
    assert page.index('href="/desktops/second"') < page.index('href="/desktops/alice-desktop"')
    assert "card-uid-bobs" not in page


@pytest.mark.parametrize(
    ("templates", "button"),
    [
        (
            ["ubuntu"],
            '<button type="submit" form="act" formaction="/catalogue/ubuntu">Start Ubuntu</button>',
        ),
        (["ubuntu", "cad"], '<a class="button" href="/catalogue">New desktop</a>'),
    ],
)
async def test_empty_list_offers_the_only_template_at_once(
    templates: list[str], button: str
) -> None:
    stage = PortalStage(*(a_template(name, displayName=name.title()) for name in templates))
    page = await stage.browser().html("/")
    assert "No desktop yet" in page and button in page


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("Expiring", "The time limit is near"),
        ("Idle", "This desktop is idle"),
        ("Draining", "This desktop will move"),
    ],
)
async def test_warnings_stand_out_with_the_operators_sentence(kind: str, said: str) -> None:
    condition = {"type": kind, "status": "True", "reason": "R", "message": "At five o'clock."}
    stage = PortalStage(running(status={"conditions": [condition]}))
    for path in ("/", PAGE):
        text = await stage.browser().text(path)
        assert said in text and "At five o&#39;clock." in text


async def test_the_details_name_the_display_beside_what_draws() -> None:
    graphics = {"display": "Wayland", "renderer": "Software", "message": "no GPU"}
    stage = PortalStage(running(status={"graphics": graphics}))
    assert "Display Wayland OpenGL in software: no GPU" in await stage.browser().text(PAGE)


async def test_a_recorded_desktop_says_so_before_one_opens_it() -> None:
    shared = running(access=[{"user": "bob@example.com"}])
    stage = PortalStage(a_template(recording={"mode": "Always", "retention": "24h"}), shared)
    for browser, path in ((stage.browser(), "/"), (stage.browser(BOB), "/shared")):
        assert "● Recorded" in await browser.html(path)
        assert "Recordings are kept for 1 day" in await browser.html(PAGE)
    stage.put(a_template(recording={"mode": "OnDemand"}))
    assert "● Recorded" not in await stage.browser().html("/")


async def test_a_resumed_desktop_is_opened(stage: PortalStage) -> None:
    suspended = {"phase": "Suspended", "url": "https://alice-desktop.vdi.localhost"}
    stage.put(a_session(suspended=True, status=suspended))
    answer = await stage.browser().post(f"{PAGE}/resume", at="/")
    assert answer.headers["location"] == f"{PAGE}/open"
    admin = await stage.browser(ADMIN).post(f"{PAGE}/suspend", at=PAGE)
    assert admin.headers["location"].startswith(f"{PAGE}?done=suspend")


async def test_opening_is_a_plain_link_to_https_alone(stage: PortalStage) -> None:
    assert 'href="https://alice-desktop.vdi.localhost"' in await stage.browser().html("/")
    stage.put(running(status={"url": "javascript:alert(1)"}))
    for path in ("/", PAGE):
        assert "javascript:" not in await stage.browser().html(path)


async def test_a_desktop_of_others_looks_like_none_at_all(stage: PortalStage) -> None:
    bob = stage.browser(BOB)
    for path in (PAGE, f"{PAGE}/end"):
        theirs = await bob.get(path)
        none = await bob.html(path.replace("alice-desktop", "nothing-there"))
        assert (theirs.status_code, theirs.text.replace("alice-desktop", "nothing-there")) == (
            404,
            none,
        )


async def test_a_guest_sees_and_opens_and_changes_nothing() -> None:
    stage = PortalStage(
        a_template(),
        running(access=[*SHARED, {"user": "carol@example.com", "role": "collaborator"}]),
    )
    bob = stage.browser(BOB)
    page = await bob.html(PAGE)
    assert "view only" in await bob.text("/shared")
    assert ">Open<" in page
    for word in ("Suspend<", "Restart<", "More time", "Sharing", "carol@example.com"):
        assert word not in page


async def test_a_share_that_is_over_is_gone() -> None:
    stage = PortalStage(running(access=SHARED))
    bob = stage.browser(BOB)
    assert "alice-desktop" in await bob.html("/shared")
    stage.clock.wall = parse_time("2026-11-20T14:00:00Z")
    assert "alice-desktop" not in await bob.html("/shared")
    assert (await bob.get(PAGE)).status_code == 404


async def test_an_administrator_keeps_order_and_does_not_look_in(stage: PortalStage) -> None:
    page = await stage.browser(ADMIN).html(PAGE)
    assert "Suspend<" in page and ">Open<" not in page
    assert 'action="/desktops/alice-desktop/share"' not in page and "gpu-node-1" in page
    assert "delete your files too" not in page
    assert "delete your files too" in await stage.browser().html(PAGE)


@pytest.mark.parametrize(
    ("action", "at", "fields", "changed", "where"),
    [
        ("suspend", "/suspend", {}, {"suspended": True}, PAGE),
        ("restart", "/restart", {}, {}, PAGE),
        ("end", "/end", {}, None, "/"),
        ("end", "/end", {"deleteHome": "true"}, None, "/"),
        ("extend", "", {"timeout": "9h"}, {"timeout": "9h"}, PAGE),
        ("resize", "", {"memory": "2Gi"}, {"resources": {"memory": "2Gi"}}, PAGE),
        (
            "share",
            "",
            CAROL | {"length": "1h"},
            {"access": [SHARE, CAROL | {"expires": "2026-11-20T13:00:00Z"}]},
            PAGE,
        ),
        ("share", "", COLLABORATOR | {"length": ""}, {"access": [COLLABORATOR]}, PAGE),
        ("unshare", "", {"user": "bob@example.com"}, {"access": []}, PAGE),
    ],
)
async def test_an_action_is_done_and_said(
    stage: PortalStage,
    action: str,
    at: str,
    fields: dict[str, str],
    changed: dict[str, object] | None,
    where: str,
) -> None:
    stage.put(running(access=SHARED))
    alice, page = stage.browser(), f"{PAGE}{at}"
    answer = await alice.post(f"{PAGE}/{action}", at=page, **fields)
    assert answer.status_code == 303
    there = stage.cluster.objects.get("alice-desktop")
    assert (there and {name: there["spec"].get(name, []) for name in changed or ()}) == changed
    what = "end-with-files" if "deleteHome" in fields else action
    assert stage.acts == [("alice@example.com", f"session.{action}", "alice-desktop", "done")]
    assert answer.headers["location"].startswith(f"{where}?done={what}&name=alice-desktop")
    after = await alice.get(answer.headers["location"])
    assert (after.status_code, 'class="notice good"' in after.text) == (200, True)


async def test_full_memory_is_said_to_the_owner_with_one_click(stage: PortalStage) -> None:
    stage.put(a_template(resources={"maxMemory": "16Gi"}), running(access=SHARED))
    stage.agent.memory = full = b'{"used": 3960000000, "limit": 4294967296, "isShort": true}'
    page = await stage.browser().html(PAGE)
    assert "Your desktop uses 92 % of its memory. Give it 2 GiB more?" in page
    assert '<button class="second" name="memory" value="6Gi">Give it 2 GiB more</button>' in page
    for used, limit in ((-1, 2**32), (1, 0), (3_800_000_000, 2**32)):
        stage.agent.memory = b'{"used": %d, "limit": %d}' % (used, limit)
        assert "of its memory" not in await stage.browser().html(PAGE)
    stage.agent.memory = full
    assert "of its memory" not in await stage.browser(BOB).html(PAGE)


async def test_fewer_free_gpus_are_offered_and_started_with() -> None:
    status = {"phase": "Pending", "queue": {"position": 2, "reason": "GPUsBusy", "availableGpu": 2}}
    waits = a_session(resources={"gpu": 3}, status=status, access=SHARED)
    stage = PortalStage(a_template(resources={"maxGPU": 4}), waits)
    alice, bob = stage.browser(), stage.browser(BOB)
    assert "2 GPUs are free now: Start with 2" in await alice.text(PAGE)
    assert "free now" not in await bob.html(PAGE)
    assert (await bob.post(f"{PAGE}/resize", at="/", gpu="2")).status_code == 403
    assert (await alice.post(f"{PAGE}/resize", at=PAGE, gpu="3")).status_code == 409
    assert (await alice.post(f"{PAGE}/resize", at=PAGE, gpu="-2")).status_code == 422
    answer = await alice.post(f"{PAGE}/resize", at=PAGE, gpu="2")
    assert answer.headers["location"] == f"{PAGE}?done=start&name=alice-desktop"
    assert stage.cluster.objects["alice-desktop"]["spec"]["resources"]["gpu"] == 2


NO_HOME, OWN_HOME = {"enabled": False}, {"scope": "Session"}


@pytest.mark.parametrize(
    ("persistence", "action", "said"),
    [
        (NO_HOME, "end", "save your work first. Its files are deleted."),
        (NO_HOME, "suspend", "you can resume it later. Its files are deleted."),
        (OWN_HOME, "suspend", "The files in its home folder are kept."),
        (OWN_HOME, "restart", "The files in its home folder are kept."),
        (OWN_HOME, "end", "Its files are deleted."),
    ],
)
async def test_question_says_whether_files_are_kept(
    persistence: dict[str, Any], action: str, said: str
) -> None:
    stage = PortalStage(a_template(persistence=persistence), running())
    assert said in await stage.browser().html(f"{PAGE}/{action}")


async def test_ending_says_when_files_are_deleted() -> None:
    alice = PortalStage(a_template(persistence=NO_HOME), running()).browser()
    assert "Its files are deleted." in await alice.html(PAGE)
    assert "deleteHome" not in await alice.html(f"{PAGE}/end")
    ended = await alice.post(f"{PAGE}/end", at=f"{PAGE}/end")
    assert "You ended alice-desktop. Its files are deleted." in await alice.html(
        ended.headers["location"]
    )


async def test_ending_a_suspended_desktop_closes_no_programs() -> None:
    stage = PortalStage(a_template(), a_session(suspended=True, status={"phase": "Suspended"}))
    asked = await stage.browser().html(f"{PAGE}/end")
    assert "Its address is released." in asked and "save your work" not in asked


async def test_an_administrator_returns_to_all_sessions_after_an_end(stage: PortalStage) -> None:
    admin = stage.browser(ADMIN)
    assert "Its files are kept." in await admin.html(f"{PAGE}/end")
    ended = await admin.post(f"{PAGE}/end", at=f"{PAGE}/end")
    assert ended.headers["location"] == "/admin/sessions?done=end&name=alice-desktop"
    assert "You ended alice-desktop. Its files are kept." in await admin.html(
        ended.headers["location"]
    )


async def test_a_refusal_stands_beside_the_form_with_what_was_typed(stage: PortalStage) -> None:
    fields = {"user": "bob@example", "role": "collaborator", "length": "168h"}
    answer = await stage.browser().post(f"{PAGE}/share", at=PAGE, **fields)
    assert answer.status_code == 422
    said = re.search(r'<p class="error" id="share-error" role="alert">(.*?)</p>', answer.text)
    assert said and "&#39;bob@example&#39; is not an e-mail address" in said[1]
    for typed in (
        'value="bob@example"',
        '<option value="collaborator" selected>',
        '<option value="168h" selected>',
    ):
        assert typed in answer.text


async def test_other_refusals_are_said_where_they_were_asked_for(stage: PortalStage) -> None:
    stage.put(running(suspended=True))
    stage.cluster.refuses = ActionDenied("Conflict", "Not now.")
    alice = stage.browser()
    extended = await alice.post(f"{PAGE}/extend", at=PAGE, timeout="99h")
    assert (extended.status_code, 'id="extend-error"' in extended.text) == (409, True)
    ended = await alice.post(f"{PAGE}/end", at=f"{PAGE}/end", deleteHome="true")
    assert (ended.status_code, "Not now." in ended.text, "checked" in ended.text) == (
        409,
        True,
        True,
    )
    resumed = await alice.post(f"{PAGE}/resume", at=PAGE)
    assert (resumed.status_code, "Not now." in resumed.text) == (409, True)


@pytest.mark.parametrize(("field", "value"), [("role", "owner"), ("role", ""), ("length", "9999d")])
async def test_a_share_takes_only_what_the_form_offers(
    stage: PortalStage, field: str, value: str
) -> None:
    fields = {"user": "bob@example.com", "role": "viewer", "length": "1h"} | {field: value}
    answer = await stage.browser().post(f"{PAGE}/share", at=PAGE, **fields)
    assert (answer.status_code, f"{field}: " in answer.text, stage.acts) == (422, True, [])


async def test_view_only_is_not_offered_where_the_image_lacks_it(stage: PortalStage) -> None:
    assert '<option value="viewer"' in await stage.browser().html(PAGE)
    stage.put(a_template(protocol="Web"))
    page = await stage.browser().html(PAGE)
    assert '<option value="viewer"' not in page and '<option value="collaborator"' in page
    assert "serves its own page (protocol Web)" in page


async def test_an_unknown_action_does_nothing(stage: PortalStage) -> None:
    answer = await stage.browser().post(f"{PAGE}/explode", at=PAGE)
    assert (answer.status_code, stage.acts) == (404, [])


async def test_what_was_done_is_said_in_our_words_only(stage: PortalStage) -> None:
    page = await stage.browser().html("/?done=You+won&name=x")
    assert "You won" not in page and "notice good" not in page


async def test_a_run_can_be_extended_up_to_what_the_template_allows() -> None:
    stage = PortalStage(a_template(lifecycle={"maxTimeout": "10h"}), running())
    page = await stage.browser().html(PAGE)
    assert '<option value="9h">1 hour more</option>' in page
    assert '<option value="10h">2 hours more</option>' in page and 'value="12h"' not in page
    stage.put(running(timeout="10h"))
    page = await stage.browser().text(PAGE)
    assert "The maximum for this template is 10h, and this desktop already has it." in page


async def test_an_extension_of_an_outdated_page_is_refused(stage: PortalStage) -> None:
    alice = stage.browser()
    assert f'formaction="{PAGE}/extend?from=8h"' in await alice.html(PAGE)
    stage.put(running(timeout="12h"))
    refused = await alice.post(f"{PAGE}/extend?from=8h", at=PAGE, timeout="9h")
    assert (refused.status_code, stage.acts) == (409, [])
    assert (
        'id="extend-error" role="alert">The time limit is 12h now. Choose again.</p>'
        in refused.text
    )
    assert '<option value="13h">1 hour more</option>' in refused.text
    again = await alice.post(f"{PAGE}/extend?from=12h", at=PAGE, timeout="13h")
    assert again.status_code == 303


async def test_guests_are_listed_with_their_role_and_the_address(stage: PortalStage) -> None:
    stage.put(running(access=SHARED))
    page = await stage.browser().html(PAGE)
    assert '<option value="viewer" selected>view only</option>' in page
    assert "bob@example.com view only" in text_of(page)
    assert (
        'formaction="/desktops/alice-desktop/unshare" name="user" value="bob@example.com"' in page
    )
    assert "They open https://alice-desktop.vdi.localhost and sign in as themselves." in text_of(
        page
    )


async def test_a_share_is_switched_in_place_until_the_same_end(stage: PortalStage) -> None:
    stage.put(running(access=SHARED))
    alice = stage.browser()
    page = await alice.html(PAGE)
    switch = re.search(r'formaction="([^"]*)" name="role" value="collaborator"', page)
    assert switch and "until 20 Nov 2026, 14:00 UTC" in page
    answer = await alice.post(unescape(switch[1]), at=PAGE, role="collaborator")
    assert stage.cluster.objects["alice-desktop"]["spec"]["access"] == [
        SHARE | {"role": "collaborator"}
    ]
    said = "You shared alice-desktop with bob@example.com, full control."
    assert said in await alice.html(answer.headers["location"])


async def test_a_share_ends_with_the_desktop_at_the_latest(stage: PortalStage) -> None:
    stage.put(running(access=[SHARE | {"expires": "2026-11-21T14:00:00Z"}]))
    assert "view only · until 20 Nov 2026, 17:00 UTC" in await stage.browser().text(PAGE)


async def test_a_guest_is_told_of_a_share_on_their_own_page(stage: PortalStage) -> None:
    assert "Shared with you" not in await stage.browser(BOB).text("/")
    stage.put(running(access=SHARED))
    assert "Shared with you: alice-desktop" in await stage.browser(BOB).text("/")


async def test_several_desktops_end_after_one_question(stage: PortalStage) -> None:
    stage.put(a_template("bare", persistence=NO_HOME), running("two", template="bare"))
    stage.put(running("bobs", user=BOB.email, access=[CAROL | {"user": "alice@example.com"}]))
    alice = stage.browser()
    assert 'name="pick-uid-two"' in await alice.html("/")
    assert "pick-" not in await alice.html("/shared")
    picks = {f"pick-uid-{name}": "on" for name in ("alice-desktop", "two", "bobs")}
    asked = await alice.post("/desktops", at="/", action="end", **picks)
    said = text_of(asked.text)
    assert "End 2 desktops? Open programs" in said
    assert "alice-desktop two: its files are deleted" in said and stage.acts == []
    sent = dict(re.findall(r'type="hidden" name="([^"]+)" value="([^"]+)"', asked.text))
    del sent["csrf"]
    answer = await alice.post("/desktops", at="/", **sent)
    assert answer.headers["location"] == "/?done=end-chosen&name=2%20desktops"
    assert "You ended 2 desktops." in await alice.text(answer.headers["location"])
    assert {name for _, act, name, _ in stage.acts if act == "session.end"} == {
        "alice-desktop",
        "two",
    }
    assert (await alice.post("/desktops", at="/", action="end")).status_code == 409
    assert (await alice.post("/desktops", at="/", action="resize")).status_code == 422


async def test_removing_a_collaborator_warns_of_running_programs(stage: PortalStage) -> None:
    stage.put(running(access=[{"user": "carol@example.com", "role": "collaborator"}]))
    alice = stage.browser()
    answer = await alice.post(f"{PAGE}/unshare", at=PAGE, user="carol@example.com")
    page = await alice.text(answer.headers["location"])
    assert (
        "Programs that your guest started in it are still running. Restart the desktop to end them."
        in page
    )


async def test_the_page_has_a_timeline_unless_the_database_is_down(stage: PortalStage) -> None:
    row = a_past("uid-alice-desktop")
    stage.remember(
        row,
        RunRow(uid=row.uid, start=NOW, ended=NOW, end_reason=EndReason.IDLE, queue_seconds=75.0),
    )
    page = await stage.browser().text(PAGE)
    assert "Idle timeout" in page and "after 1 min in line" in page
    stage.lose_history()
    answer = await stage.browser().get(PAGE)
    assert (answer.status_code, "The history cannot be read right now" in answer.text) == (
        200,
        True,
    )


async def test_only_administrators_see_administration_in_the_menu(stage: PortalStage) -> None:
    assert 'href="/admin"' not in await stage.browser().html("/")
    assert 'href="/admin"' in await stage.browser(ADMIN).html("/")


async def test_pages_that_change_reload_themselves_without_scripts() -> None:
    stage = PortalStage(a_session(status={"phase": "Creating"}))
    refresh = '<noscript><meta http-equiv="refresh" content="10"></noscript>'
    assert refresh in await stage.browser().html("/")
    stage.put(running())
    assert refresh not in await stage.browser().html("/")


async def test_a_run_that_has_the_maximum_is_not_offered_more_time() -> None:
    ends = {
        "type": "Expiring",
        "status": "True",
        "reason": "R",
        "message": "After 8h this desktop ends at 17:00 UTC.",
    }
    stage = PortalStage(
        a_template(lifecycle={"maxTimeout": "10h"}), running(status={"conditions": [ends]})
    )
    assert "Extend time limit" in await stage.browser().html("/")
    stage.put(a_template(lifecycle={"maxTimeout": "8h"}))
    for path in ("/", PAGE):
        page = await stage.browser().html(path)
        assert "Extend time limit" not in page and "It already has the maximum of 8h." in page


async def test_users_and_administrators_read_their_own_queue_message() -> None:
    message = (
        "Waiting for capacity, number 2 in line: all 8 nvidia.com/gpu on nodes a and b are in use."
    )
    queue = {"position": 2, "reason": "GPUsBusy", "earliestSlot": "2026-11-20T19:58:00Z"}
    stage = PortalStage(
        a_template(), a_session(status={"phase": "Pending", "queue": queue, "message": message})
    )
    said = (
        "Waiting for capacity, number 2 in line: not enough suitable GPUs are free. Capacity is"
        " expected by"
    )
    for path in ("/", PAGE):
        page = await stage.browser().text(path)
        assert said in page and "nvidia.com" not in page
    for path in (PAGE, "/admin"):
        assert message in await stage.browser(ADMIN).text(path)
