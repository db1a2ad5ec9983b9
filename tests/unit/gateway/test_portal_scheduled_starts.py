"""The portal's page of scheduled starts, on a real gateway with its database."""

import re
from collections.abc import AsyncIterator
from html import unescape
from pathlib import Path

import httpx
import pytest

from unit.gateway.attack_stage import ALICE, BOB, AttackStage, furnish, open_attack_stage
from unit.gateway.component_stage import Browser
from unit.gateway.portal_stage import text_of
from unit.kube.kube_fake_api import fake_api
from vdi.gateway.scheduled_starts import MOST, Result
from vdi.gateway.store.scheduled_starts import ScheduledStart, ScheduledStartStore
from vdi.session.times import format_time

PAGE = "/scheduled-starts"
WEEKDAYS = dict.fromkeys(("MON", "TUE", "WED", "THU", "FRI"), "yes")
FORM = {"template": "desktop", "time": "08:30", "time_zone": "Europe/Berlin", **WEEKDAYS}


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[AttackStage]:
    async with fake_api() as api:
        furnish(api)
        api.put("vditemplates", "cad", namespace="", spec={"image": "cad:1", "access": {"groups": ["engineers"]}})
        async with open_attack_stage(api, tmp_path) as stage:
            yield stage


async def read(browser: Browser, path: str = PAGE) -> str:
    answer = await browser.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


async def send(browser: Browser, fields: dict[str, str], path: str = PAGE) -> httpx.Response:
    return await browser.submit(path, await read(browser), **fields)


def said(answer: httpx.Response) -> str:
    return unescape(text_of(answer.text))


def checked(page: str) -> list[str]:
    return re.findall(r'name="([A-Z]{3})" value="yes" checked', page)


async def only(stage: AttackStage, owner: str = BOB.user) -> ScheduledStart:
    (start,) = await ScheduledStartStore(stage.gateway.context.database).of(owner)
    return start


async def test_a_start_is_scheduled_shown_and_deleted_after_a_question(stage: AttackStage) -> None:
    browser = await stage.logged_in(BOB)
    empty = await read(browser)
    assert "No scheduled starts yet" in empty and "cad" not in empty, "only templates that one may use"
    made = await send(browser, FORM)
    assert (made.status_code, made.headers["location"]) == (303, f"{PAGE}?done=schedule&name=bob-desktop")
    start = await only(stage)
    assert (start.template, start.time, start.time_zone) == ("desktop", "08:30", "Europe/Berlin")
    assert start.days == tuple(WEEKDAYS)
    page = await read(browser, made.headers["location"])
    assert "bob-desktop is scheduled." in page
    assert "bob-desktop desktop 08:30, Monday to Friday Europe/Berlin" in text_of(page)
    assert f'<time datetime="{format_time(start.next_time)}">' in page and "not yet" in page
    assert "No scheduled starts yet" not in page

    question = f"{PAGE}/{start.id}/delete"
    asked = await read(browser, question)
    assert "bob-desktop is no longer started at 08:30, Monday to Friday (Europe/Berlin)" in asked
    assert (await only(stage)).id == start.id
    deleted = await browser.submit(question, asked)
    assert (deleted.status_code, deleted.headers["location"]) == (303, f"{PAGE}?done=unschedule&name=bob-desktop")
    assert "A scheduled start of bob-desktop was deleted." in await read(browser, deleted.headers["location"])
    assert await ScheduledStartStore(stage.gateway.context.database).of(BOB.user) == []


async def test_the_form_begins_with_weekdays_and_a_time_zone_that_works(stage: AttackStage) -> None:
    browser = await stage.logged_in(BOB)
    page = await read(browser)
    assert checked(page) == list(WEEKDAYS)
    assert 'type="time" required value="08:30"' in page
    assert 'value="UTC"' in page and "data-guess-time-zone" in page
    assert (await send(browser, FORM | {"time_zone": "UTC"})).status_code == 303
    assert (await send(browser, FORM | {"time_zone": "Asia/Kolkata"})).status_code == 303
    assert 'value="Asia/Kolkata"' in await read(browser), "that of the last one"


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("template", "cad", "There is no template 'cad' that you can start."),
        ("time", "24:00", "'24:00' is not a time of day; allowed: 00:00 to 23:59."),
        ("time", "", "'' is not a time of day; allowed: 00:00 to 23:59."),
        ("time_zone", "Atlantis", "'Atlantis' is not a known time zone; allowed: a time zone, such as Europe/Berlin."),
        ("days", "", "No day of the week is chosen; allowed: one or more."),
    ],
)
async def test_a_refusal_stands_at_its_field_and_what_was_typed_stays(
    stage: AttackStage, field: str, value: str, sentence: str
) -> None:
    browser = await stage.logged_in(BOB)
    good = {**FORM, "time": "13:05", "SUN": "yes"}
    typed = {key: word for key, word in good.items() if word != "yes"} if field == "days" else good | {field: value}
    refused = await send(browser, typed)
    assert refused.status_code == (404 if field == "template" else 422) and sentence in said(refused)
    name = field.replace("_", "-")
    assert f'id="{name}-error" role="alert"' in refused.text
    (described,) = re.findall(rf'<[^>]*aria-describedby="[^"]*{name}-error"[^>]*>', refused.text)
    assert ('aria-invalid="true"' in described) == (field != "days")
    assert refused.text.count('role="alert"') == 1
    assert checked(refused.text) == ([] if field == "days" else [*WEEKDAYS, "SUN"])
    assert f'value="{typed["time"]}"' in refused.text and f'value="{typed["time_zone"]}"' in refused.text
    assert "data-guess-time-zone" not in refused.text, "what was typed is not replaced"
    assert await ScheduledStartStore(stage.gateway.context.database).of(BOB.user) == []


async def test_one_too_many_is_refused_above_the_page(stage: AttackStage) -> None:
    browser = await stage.logged_in(BOB)
    for _ in range(MOST):
        assert (await send(browser, FORM)).status_code == 303
    refused = await send(browser, FORM)
    assert (refused.status_code, f"You already have {MOST} scheduled starts" in refused.text) == (409, True)


async def test_the_last_result_is_shown_in_words(stage: AttackStage) -> None:
    browser = await stage.logged_in(BOB)
    store = ScheduledStartStore(stage.gateway.context.database)
    await send(browser, FORM)
    for result in (*Result, "OverLimit"):
        start = await only(stage)
        done = {"time": start.next_time, "next_time": start.next_time, "result": result, "message": f"Why {result}."}
        await store.finish(start, **done)
        page = await read(browser)
        assert f"Why {result}." in page and "not yet" not in page
        assert ("Not started" in page) == (result == "OverLimit"), result


async def test_a_desktop_that_is_there_is_linked_for_its_owner(stage: AttackStage) -> None:
    alice = await stage.logged_in(ALICE)
    await send(alice, FORM)
    assert '<a href="/desktops/alice-desktop">' in await read(alice)
    bob = await stage.logged_in(BOB)
    await send(bob, FORM)
    assert "/desktops/bob-desktop" not in await read(bob)


async def test_one_of_another_person_is_not_there(stage: AttackStage) -> None:
    alice, bob = await stage.logged_in(ALICE), await stage.logged_in(BOB)
    await send(alice, FORM)
    question = f"{PAGE}/{(await only(stage, ALICE.user)).id}/delete"
    assert "No scheduled starts yet" in await read(bob)
    for answer in (await bob.get(question), await bob.submit(question, await read(bob))):
        assert answer.status_code == 404
        assert "You have no such scheduled start." in answer.text
    assert await only(stage, ALICE.user)
