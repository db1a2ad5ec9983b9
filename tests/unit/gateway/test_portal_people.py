"""The page of people: who is on it, and the steps when one of them leaves."""

from datetime import timedelta

import msgspec
import pytest

from unit.gateway.gateway_stage import NOW
from unit.gateway.portal_stage import ADMIN, ALICE, BOB, PortalStage, a_template, running, text_of
from vdi.gateway.login.local_users import USERS_KEY, LocalUser, change_user
from vdi.gateway.rights import User
from vdi.gateway.store.logins import oidc_subjects
from vdi.kube.errors import ConnectionFailed
from vdi.session.homes import HomeClaim

PATH = "/admin/people?user=alice%40example.com"
HASH = "$argon2id$v=19$m=32768,t=3,p=1$c2FsdHNhbHQ$aGFzaGhhc2g"


@pytest.fixture
def stage() -> PortalStage:
    """Alice has a password, a desktop, a home, and access to one of Bob's."""
    stage = PortalStage(a_template(), running(access=[{"user": BOB.email, "role": "viewer"}]))
    shared = [{"user": "Alice@Example.com", "role": "viewer"}]
    stage.put(running("bobs", user=BOB.email, access=shared), running("other", user=BOB.email))
    notes = {"vdi.kasm.io/user": ALICE.email, "vdi.kasm.io/template": "ubuntu"}
    meta = {"name": "home-alice", "namespace": "vdi-sessions", "uid": "h", "resourceVersion": "1"}
    claim = {"metadata": meta | {"annotations": notes}, "status": {"capacity": {"storage": "1Gi"}}}
    stage.world.homes.observe(msgspec.convert(claim, HomeClaim))
    users = change_user("", ALICE.email, LocalUser(HASH))
    users = change_user(users, "new@example.com", LocalUser(HASH))
    stage.cluster.put_secret("vdi-gateway-users", **{USERS_KEY: users})
    stage.rows.insert(
        oidc_subjects, {"issuer": "i", "user": "sso@example.com", "subject": "s", "bound": NOW}
    )
    return stage


async def step(stage: PortalStage, action: str, **form: str) -> str:
    """What a person reads after the step."""
    admin = stage.browser(ADMIN)
    answer = await admin.post(PATH, at=PATH, action=action, confirmed="yes", **form)
    return text_of((await admin.client.get(answer.headers["location"])).text)


async def test_everyone_is_listed_with_account_and_tokens(stage: PortalStage) -> None:
    await stage.logins.new_token(User(BOB.email), "ci", timedelta(days=1))
    page = await stage.browser(ADMIN).text("/admin/people")
    assert "alice@example.com password 0 1 " in page
    assert "bob@example.com 1 2 " in page
    assert "new@example.com password 0 0 " in page and "sso@example.com identity provider 0" in page
    page = await stage.browser(ADMIN).text("/admin/people?q=SSO")
    assert "sso@example.com" in page and "bob@" not in page


async def test_one_person_with_the_commands(stage: PortalStage) -> None:
    page = await stage.browser(ADMIN).html(PATH)
    assert "bob@example.com" not in page
    for command in (
        "vdi gateway user passwd alice@example.com",
        "vdi gateway user rm alice@example.com",
        "vdi home export home-alice -n vdi-sessions - | vdi home import - -n vdi-sessions"
        " --user SUCCESSOR --template ubuntu",
    ):
        assert command in text_of(page).replace("&gt;", ">")
    other = await stage.browser(ADMIN).html("/admin/people?user=o'neil@example.com")
    assert "release &#39;o&#39;&#34;&#39;&#34;&#39;neil@example.com&#39;" in other
    assert "at the identity provider" in other and "vdi home export" not in other


@pytest.mark.parametrize(
    ("action", "names", "gone"),
    [
        ("sign-out", (), "Ends logins"),
        ("end-access", ("alice-desktop", "bobs"), "Take everything away"),
        ("delete-files", ("home-alice",), "deleted permanently"),
    ],
)
async def test_each_step_asks_first(
    stage: PortalStage, action: str, names: tuple[str, ...], gone: str
) -> None:
    question = await stage.browser(ADMIN).post(PATH, at=PATH, action=action)
    assert ">alice@example.com" not in question.text and gone in question.text
    for name in ("alice-desktop", "bobs", "home-alice", "other"):
        assert (f"<li>{name}</li>" in question.text) == (name in names)
    assert stage.acts == []


async def test_signing_out_ends_logins_and_tokens(stage: PortalStage) -> None:
    alice = stage.browser()
    assert (await alice.get("/")).status_code == 200
    await stage.logins.new_token(User(ALICE.email), "ci", timedelta(days=1))
    assert "alice@example.com is signed out everywhere" in await step(stage, "sign-out")
    assert (await alice.get("/")).status_code == 303
    assert await stage.logins.tokens(ALICE.email) == []
    assert stage.acts == [(ADMIN.email, "login.end_all", ALICE.email, "done")]
    assert "alice-desktop" in stage.cluster.objects


async def test_taking_everything_away_keeps_files_and_others(stage: PortalStage) -> None:
    await step(stage, "end-access")
    assert list(stage.cluster.objects) == ["bobs", "other"]
    assert stage.cluster.objects["bobs"]["spec"].get("access", []) == []
    assert [act[1:3] for act in stage.acts] == [
        ("login.end_all", ALICE.email),
        ("session.end", "alice-desktop"),
        ("session.unshare", "bobs"),
    ]
    assert [home.metadata.name for home in stage.world.homes.values()] == ["home-alice"]
    assert "The files of alice@example.com are being deleted" in await step(stage, "delete-files")
    assert not list(stage.world.homes.values())
    assert stage.acts[-1] == (ADMIN.email, "home.delete", "home-alice", "done")


async def test_files_in_use_are_not_deleted(stage: PortalStage) -> None:
    stage.put(running(status={"homeClaim": "home-alice"}))
    admin = stage.browser(ADMIN)
    answer = await admin.post(PATH, at=PATH, action="delete-files", confirmed="yes")
    assert (answer.status_code, "Nothing was deleted." in answer.text) == (409, True)
    assert [home.metadata.name for home in stage.world.homes.values()] == ["home-alice"]


async def test_nothing_is_done_without_its_audit(stage: PortalStage) -> None:
    admin = stage.browser(ADMIN)
    page = await admin.html(PATH)
    stage.lose_audit()
    token = page.partition('name="csrf" value="')[2].partition('"')[0]
    for action in ("end-access", "delete-files"):
        form = {"action": action, "confirmed": "yes"}
        answer = await admin.post(PATH, token=token, **form)
        assert (answer.status_code, "cannot be written to the audit" in answer.text) == (409, True)
    assert set(stage.cluster.objects) == {"alice-desktop", "bobs", "other"}
    assert len(list(stage.world.homes.values())) == 1


async def test_only_administrators_act_and_only_on_addresses(stage: PortalStage) -> None:
    form = {"action": "end-access", "confirmed": "yes"}
    assert (await stage.browser(BOB).post(PATH, at="/", **form)).status_code == 403
    admin = stage.browser(ADMIN)
    assert (await admin.post(PATH, at=PATH, token="wrong", **form)).status_code == 403
    assert (await admin.post(PATH, at=PATH, action="burn")).status_code == 422
    for user in ("nobody", "a@b.c%00"):
        assert (await admin.get(f"/admin/people?user={user}")).status_code == 422
    stage.cluster.broken = ConnectionFailed("https://10.0.0.1", "get secrets", "no route to host")
    assert (await admin.get("/admin/people")).status_code == 503
    assert "alice-desktop" in stage.cluster.objects
