"""What became of a desktop's start-up scripts: its owner alone reads it, and what an agent sends is
checked.
"""

import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.hostile_server import DEEP
from unit.gateway.api_stage import BOB, ROOT, RUNNING, ApiStage
from unit.gateway.portal_stage import ADMIN, PortalStage, a_template, running
from unit.gateway.portal_stage import BOB as GUEST
from unit.gateway.probe_agent import agent
from vdi.gateway.desktop.agent_requests import MAX_CHARACTERS, MAX_LINES, last_lines

ONE = "/api/v1/sessions/alice-desktop/startup-scripts"
PAGE = "/desktops/alice-desktop"
SHARED = [{"user": "bob@example.com", "role": "collaborator"}]
ENDED = {"source": "template", "state": "Ended", "exitCode": 0, "output": "licence found\n"}
FAILED = {"source": "user", "state": "Ended", "exitCode": 3, "output": "<script>alert(1)</script>"}


@pytest.fixture
async def api() -> AsyncIterator[ApiStage]:
    async with ApiStage() as stage:
        stage.session(status=RUNNING, access=SHARED)
        yield stage


@pytest.fixture
def portal() -> PortalStage:
    script = {"configMapKeyRef": {"name": "cad-startup"}}
    return PortalStage(a_template(startupScript=script), running(access=SHARED))


def report(*scripts: object) -> bytes:
    return json.dumps({"scripts": scripts}).encode()


async def test_the_owner_reads_results_of_two_scripts_at_most(api: ApiStage) -> None:
    program = await api.program()
    async with agent(api) as asked:
        asked.body = {
            "scripts": [ENDED, {"source": "user", "state": "Running", "output": ""}, ENDED]
        }
        answer = await program.get(ONE)
    assert answer.json() == {
        "items": [
            {"source": "template", "state": "Ended", "exitCode": 0, "output": "licence found"},
            {"source": "user", "state": "Running"},
        ]
    }
    assert asked.asked == [("/startup-scripts", asked.bearer, None)]


async def test_no_one_else_reads_them_and_the_agent_is_not_asked(api: ApiStage) -> None:
    async with agent(api) as asked:
        for person in (BOB, ROOT):
            answer = await (await api.program(person)).get(ONE)
            assert answer.status_code == 403
            assert "Only the owner of desktop 'alice-desktop'" in answer.json()["detail"]
        alice = await api.program()
        assert (await alice.get("/api/v1/sessions/none/startup-scripts")).status_code == 404
        api.session(status={"phase": "Suspended"}, suspended=True)
        assert (await alice.get(ONE)).status_code == 409
    assert asked.asked == []


@pytest.mark.parametrize(
    ("status", "body", "answered"),
    [
        (404, "there is GET /activity", 409),
        (503, "the report can't be read", 503),
        (200, "<html>", 409),
        (200, DEEP.decode(), 409),
        (200, {"scripts": [{"source": "root", "state": "Ended"}]}, 409),
        (200, {"scripts": [{**ENDED, "exitCode": "0"}]}, 409),
        (200, {"scripts": [{**ENDED, "output": "x" * 70_000}]}, 409),
    ],
)
async def test_what_an_agent_sends_is_checked(
    api: ApiStage, status: int, body: Any, answered: int
) -> None:
    program = await api.program()
    async with agent(api) as asked:
        asked.status, asked.body = status, body
        assert (await program.get(ONE)).status_code == answered


@pytest.mark.parametrize(
    ("output", "shown"),
    [
        ("\x1b[1;31mred\x1b[0m\r\n", "red"),
        ("10 %\r100 %\n", "10 %\n100 %"),
        ("a\u202eb\u2066c\x00\x07\ttab é 日", "abc\ttab é 日"),
        ("\n".join(map(str, range(100))), "\n".join(map(str, range(100 - MAX_LINES, 100)))),
        ("x" * 9000, "x" * MAX_CHARACTERS),
    ],
)
def test_output_is_the_end_of_it_as_plain_text(output: str, shown: str) -> None:
    assert last_lines(output) == shown


async def test_the_page_shows_results_and_lines_escaped(portal: PortalStage) -> None:
    portal.agent.scripts["alice-desktop"] = report(ENDED, FAILED)
    text = await portal.browser().html(PAGE)
    section = text.partition('<h2 id="scripts">')[2].partition("</section>")[0]
    assert section.startswith("Start-up scripts</h2>")
    assert "Completed" in section and "licence found" in section
    assert "Failed with exit code 3" in section and "&lt;script&gt;alert(1)" in section
    assert section.index("Of the template") < section.index("Your own")


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ({"source": "user", "state": "Running"}, "Still running"),
        (
            {"source": "user", "state": "NotStarted", "output": "No such file"},
            "Could not be started",
        ),
        (ENDED | {"output": ""}, "It has no output."),
    ],
)
async def test_each_state_is_shown_in_words(
    portal: PortalStage, script: dict[str, object], words: str
) -> None:
    portal.agent.scripts["alice-desktop"] = report(script)
    text = await portal.browser().html(PAGE)
    assert words in text and '<h2 id="scripts">Start-up script</h2>' in text


async def test_without_scripts_and_for_others_there_is_no_section(portal: PortalStage) -> None:
    portal.agent.scripts["alice-desktop"] = report()
    assert 'id="scripts"' not in await portal.browser().html(PAGE)
    portal.agent.scripts["alice-desktop"] = report(ENDED)
    for person in (GUEST, ADMIN):
        text = await portal.browser(person).html(PAGE)
        assert "alice-desktop" in text and 'id="scripts"' not in text
    portal.put(running(suspended=True, status={"phase": "Suspended"}))
    assert 'id="scripts"' not in await portal.browser().html(PAGE)


async def test_an_unreadable_report_is_shown_as_such(portal: PortalStage) -> None:
    assert "The agent does not respond." in await portal.browser().html(PAGE)
    portal.put(a_template())
    assert 'id="scripts"' not in await portal.browser().html(PAGE)
