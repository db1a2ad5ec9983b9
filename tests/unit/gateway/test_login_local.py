"""Logging in with a password: who gets in, what the cookie is, how long it holds, and who learns
what.
"""

import re
from collections.abc import AsyncIterator

import pytest
from msgspec.structs import replace

from support.csrf import csrf_of
from unit.gateway.gateway_stage import PASSWORD, PORTAL, Browser
from unit.gateway.login_stage import LoginStage, user
from vdi.gateway.login.local_users import (
    MAX_PASSWORD_BYTES,
    MAX_WAITING,
    LoginsBusyError,
    Passwords,
)
from vdi.kube.errors import ConnectionFailed


@pytest.fixture
async def stage() -> AsyncIterator[LoginStage]:
    async with LoginStage() as stage:
        yield stage


@pytest.fixture
async def alice(stage: LoginStage) -> Browser:
    browser = stage.browser()
    await browser.log_in()
    return browser


async def test_the_right_password_makes_a_login(stage: LoginStage) -> None:
    browser = stage.browser()
    answer = await browser.log_in(next="/desktops/mine?x=1")
    assert (answer.status_code, answer.headers["location"]) == (303, "/desktops/mine?x=1")
    assert stage.acts == [("alice@example.com", "login.begin", "alice@example.com", "done")]
    assert stage.counted("local", "in") == 1
    me = (await browser.get("/api/v1/me")).json()
    assert (me["user"], me["groups"], me["admin"]) == ("alice@example.com", ["engineering"], False)


async def test_the_groups_of_a_user_are_the_same_in_upper_case(stage: LoginStage) -> None:
    stage.set_users(alice=user(groups=("Engineering", " ADMINS ")))
    browser = stage.browser()
    await browser.log_in()
    me = (await browser.get("/api/v1/me")).json()
    assert (me["groups"], me["admin"]) == (["admins", "engineering"], True)


async def test_the_address_is_the_same_in_upper_case_and_with_spaces(stage: LoginStage) -> None:
    browser = stage.browser()
    assert (
        await browser.submit("/login", user="  Alice@Example.COM ", password=PASSWORD)
    ).status_code == 303
    assert (await browser.get("/api/v1/me")).json()["user"] == "alice@example.com"


async def test_the_cookie_is_for_this_host_alone(stage: LoginStage) -> None:
    answer = await stage.browser().log_in()
    cookie = next(
        one for one in answer.headers.get_list("set-cookie") if one.startswith("__Host-vdi-login=")
    )
    attributes = {part.strip().lower() for part in cookie.split(";")[1:]}
    assert {"secure", "httponly", "path=/", "samesite=lax", "max-age=604800"} <= attributes
    assert not any(attribute.startswith("domain") for attribute in attributes)
    # The cookie of before is dropped.
    assert "__Host-vdi-before=" in str(answer.headers.get_list("set-cookie"))


@pytest.mark.parametrize(
    ("name", "password"),
    [
        *(
            ("alice", wrong)
            for wrong in ("wrong", "", PASSWORD + "\0", "x" * (MAX_PASSWORD_BYTES + 1))
        ),
        *((name, PASSWORD) for name in ("nobody", "al ice")),
    ],
)
async def test_whoever_is_wrong_is_reported_the_same(
    stage: LoginStage, name: str, password: str
) -> None:
    browser = stage.browser()
    expected = await browser.log_in("somebody", "something else")
    answer = await browser.log_in(name, password)
    assert answer.status_code == expected.status_code == 403

    def neutral(page: str) -> str:
        return re.sub(r'value="[^"]*"', "", page)

    assert neutral(answer.text) == neutral(expected.text)
    assert "__Host-vdi-login" not in str(answer.headers.get_list("set-cookie"))
    assert (await browser.get("/api/v1/me")).status_code == 401


async def test_a_password_in_the_wrong_field_is_not_written_down(
    stage: LoginStage, caplog: pytest.LogCaptureFixture
) -> None:
    browser = stage.browser()
    await browser.submit("/login", user="hunter2 is@my password", password="")
    await browser.log_in("alice", "wrong")
    assert stage.acts == [
        (user, "login.begin", user, "refused") for user in ("", "alice@example.com")
    ]
    assert stage.counted("local", "refused") == 2
    assert "hunter2" not in caplog.text


async def test_an_unknown_user_costs_as_many_hashes_as_a_known_one(
    stage: LoginStage, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    passwords = stage.login.services.local._passwords
    verify = passwords._verify

    def look(stored: str, data: bytes) -> bool:
        looked.append(stored)
        return verify(stored, data)

    monkeypatch.setattr(passwords, "_verify", look)
    browser = stage.browser()
    for name, password in (
        ("alice", "wrong"),
        ("nobody", "wrong"),
        ("no address", "wrong"),
        ("alice", "x" * 2000),
    ):
        await browser.log_in(name, password)
    assert len(looked) == 4
    parameters = {stored.rsplit("$", 2)[0] for stored in looked}
    assert len(parameters) == 1, "the stand-in's hash costs as much as a real one"


async def test_a_login_ends_when_idle_and_after_a_week(stage: LoginStage) -> None:
    for times, hours in ((13, 12.1), (14, 2)):  # idle; a week is over
        browser = stage.browser()
        await browser.log_in()
        for _ in range(times):
            stage.clock.forward(hours=11.9)
            assert (await browser.get("/api/v1/me")).status_code == 200
        stage.clock.forward(hours=hours)
        assert (await browser.get("/api/v1/me")).status_code == 401, hours


async def test_what_a_page_requests_by_itself_does_not_keep_the_login(
    stage: LoginStage, alice: Browser
) -> None:
    logins, secret = stage.logins, alice.copy_cookies()["__Host-vdi-login"]
    stage.clock.forward(hours=8)
    assert await logins.person_by_cookie(secret, in_use=False)
    stage.clock.forward(hours=4.1)
    assert await logins.person_by_cookie(secret, in_use=False) is None
    assert await logins.person_by_cookie(secret) is None


async def test_work_in_a_desktop_keeps_the_login(stage: LoginStage, alice: Browser) -> None:
    login_id = (await alice.get("/api/v1/me")).json()["login_id"]
    for _ in range(3):
        stage.clock.forward(hours=8)
        assert await stage.logins.touch(login_id)
    assert await stage.logins.is_live(login_id)
    stage.clock.forward(hours=13)
    assert not await stage.logins.touch(login_id)
    assert not await stage.logins.is_live("no such login")


async def test_logging_in_makes_a_new_cookie_and_ends_the_old_login(
    stage: LoginStage, alice: Browser
) -> None:
    first = alice.copy_cookies()["__Host-vdi-login"]
    first_id = (await alice.get("/api/v1/me")).json()["login_id"]
    page = (await alice.get("/account")).text
    assert (
        await alice.submit("/login", page, user="root@example.com", password=PASSWORD)
    ).status_code == 303
    assert alice.copy_cookies()["__Host-vdi-login"] != first
    assert {"login_id": first_id} in stage.grants.ended
    thief = stage.browser()
    thief.cookies.set("__Host-vdi-login", first)
    assert (await thief.get("/api/v1/me")).status_code == 401


async def test_a_cookie_that_somebody_planted_is_never_a_login(stage: LoginStage) -> None:
    browser = stage.browser()
    browser.cookies.set("__Host-vdi-login", "planted")
    assert (await browser.log_in()).status_code == 303
    assert browser.cookies.get("__Host-vdi-login", domain="portal.vdi.localhost") != "planted"


async def test_logging_out_ends_the_login_and_its_ways_into_desktops(
    stage: LoginStage, alice: Browser
) -> None:
    stolen = alice.copy_cookies()
    login_id = (await alice.get("/api/v1/me")).json()["login_id"]
    answer = await alice.submit("/logout", (await alice.get("/account")).text)
    assert (answer.status_code, "You are signed out" in answer.text) == (200, True)
    assert "Refresh" not in answer.headers
    assert stage.grants.ended == [{"login_id": login_id}]
    thief = stage.browser()
    thief.cookies.update(stolen)
    assert (await thief.get("/api/v1/me")).status_code == 401


async def test_the_login_page_leads_on_who_is_logged_in(alice: Browser) -> None:
    answer = await alice.get("/login?next=/history")
    assert (answer.status_code, answer.headers["location"]) == (303, "/history")


async def test_a_form_from_before_is_shown_again(stage: LoginStage) -> None:
    browser = stage.browser()
    page = (await browser.get("/login")).text
    browser.cookies.clear()
    answer = await browser.submit("/login", page, user="alice@example.com", password=PASSWORD)
    assert (answer.status_code, "try again" in answer.text) == (403, True)
    assert csrf_of(answer.text)


async def test_removed_users_and_new_passwords_end_logins(
    stage: LoginStage, alice: Browser
) -> None:
    root = stage.browser()
    await root.log_in("root")
    login_id = (await alice.get("/api/v1/me")).json()["login_id"]
    await stage.login.follow()
    assert stage.grants.ended == []
    assert (await alice.get("/api/v1/me")).status_code == 200
    stage.set_users(alice=user("another password"), root=stage.users["root@example.com"])
    await stage.login.follow()
    assert stage.grants.ended == [{"login_id": login_id}]
    assert (await alice.get("/api/v1/me")).status_code == 401
    assert (await root.get("/api/v1/me")).status_code == 200
    stage.set_users(alice=user())
    await stage.login.follow()
    assert (await root.get("/api/v1/me")).status_code == 401


@pytest.mark.parametrize("hours", [12.1, 24 * 7 + 1])
async def test_a_login_whose_time_is_over_takes_its_desktops_along(
    stage: LoginStage, alice: Browser, hours: float
) -> None:
    login_id = (await alice.get("/api/v1/me")).json()["login_id"]
    stage.clock.forward(hours=hours)
    for _ in range(2):
        await stage.login.follow()
    assert stage.grants.ended == [{"login_id": login_id}]


async def test_a_new_role_counts_without_another_login(stage: LoginStage, alice: Browser) -> None:
    stage.set_users(alice=replace(stage.users["alice@example.com"], groups=("admins",)))
    await stage.login.follow()
    me = (await alice.get("/api/v1/me")).json()
    assert (me["admin"], me["groups"]) == (True, ["admins"])


async def test_without_the_secret_no_one_gets_in(stage: LoginStage) -> None:
    stage.cluster.broken = ConnectionFailed("https://api", "GET", "refused")
    answer = await stage.browser().log_in()
    assert (answer.status_code, "right now" in answer.text) == (503, True)
    words = answer.text.replace(csrf_of(answer.text), "")  # which is random
    assert "api" not in words.lower().replace("capital", "")


async def test_a_bad_entry_locks_no_one_else_out(
    stage: LoginStage, caplog: pytest.LogCaptureFixture
) -> None:
    known = stage.users["alice@example.com"]
    stage.write_users(
        f"alice@example.com: {{password: '{known.password}'}}\nbob@example.com: {{password:"
        " plain}\n"
    )
    assert (await stage.browser().log_in()).status_code == 303
    assert "bob@example.com" in caplog.text and "plain" not in caplog.text
    assert (await stage.browser().log_in("bob", "plain")).status_code == 403


async def test_no_more_passwords_wait_than_can_be_looked_at() -> None:
    passwords = Passwords()
    passwords._waiting = MAX_WAITING
    with pytest.raises(LoginsBusyError):
        await passwords.check(None, "x")


def test_passwords_are_compared_in_nfc() -> None:
    passwords = Passwords()
    stored = passwords.make_hash("cafe\u0301 cafe\u0301")
    assert passwords._verify(stored, "café café".encode())


@pytest.mark.parametrize("password", ["short", "x" * 1025])
def test_new_passwords_have_a_length(password: str) -> None:
    with pytest.raises(ValueError, match="allowed:"):
        Passwords().make_hash(password)


async def test_pages_of_the_portal_stay_ours(stage: LoginStage) -> None:
    answer = await stage.browser().get("/login")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    assert "form-action 'self' https://*.vdi.localhost;" in policy
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert PORTAL not in answer.text
