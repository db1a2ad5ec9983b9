"""`/sessions/{name}/probe`: who may probe, what an agent may answer, and what becomes of the
figures.
"""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from support.hostile_server import DEEP
from unit.gateway.api_stage import BOB, ROOT, RUNNING, ApiStage
from unit.gateway.probe_agent import FIGURES, MARK, STATE, agent
from vdi.gateway.desktop.agent_requests import MAX_PROBES
from vdi.session.credentials import KEY_SECRET

ONE = "/api/v1/sessions/alice-desktop/probe"
NO_PICTURE = "The desktop 'alice-desktop' has no picture to measure"


@pytest.fixture
async def stage() -> AsyncIterator[ApiStage]:
    async with ApiStage() as stage:
        stage.session(status=RUNNING, access=[{"user": "bob@example.com", "role": "collaborator"}])
        yield stage


def value(stage: ApiStage, name: str, **labels: str) -> float | None:
    return stage.services.context.metrics.registry.get_sample_value(
        name, {"template": "ubuntu", **labels}
    )


async def test_a_probe_arms_the_mark_and_makes_metrics(stage: ApiStage) -> None:
    program = await stage.program()
    async with agent(stage) as asked:
        begun = (await program.post(ONE, json={"state": STATE})).json()
    assert asked.asked == [("/photon", asked.bearer, {"seconds": 60})]
    assert begun["mark"] == MARK
    assert begun["url"] == RUNNING["url"]
    assert begun["ticket"]

    figures = FIGURES | {"keysWithoutEffect": 1}
    assert (await program.put(f"{ONE}/{begun['id']}", json={"figures": figures})).status_code == 204
    assert value(stage, "session_glass_to_glass_seconds_count") == 5
    assert value(stage, "session_glass_to_glass_seconds_bucket", le="0.04") == 3
    assert value(stage, "session_glass_to_glass_seconds_bucket", le="0.05") == 3
    assert value(stage, "session_glass_to_glass_seconds_bucket", le="0.075") == 4, (
        "the key without effect is far off"
    )
    assert value(stage, "session_first_picture_seconds_sum") == 1.42
    assert value(stage, "vdi_probe_frames_per_second") == 58.9
    assert value(stage, "vdi_probe_bitrate_bits_per_second") == 812_000
    assert value(stage, "vdi_probe_frames_total", outcome="dropped") == 2
    assert value(stage, "vdi_probes_total", outcome="measured") == 1

    again = await program.put(f"{ONE}/{begun['id']}", json={"figures": FIGURES})
    assert again.status_code == 404, "one probe, one result"
    assert value(stage, "session_glass_to_glass_seconds_count") == 5


async def test_a_stage_that_failed_is_counted(stage: ApiStage) -> None:
    program = await stage.program()
    async with agent(stage):
        begun = (await program.post(ONE, json={"state": STATE})).json()
    assert (
        await program.put(f"{ONE}/{begun['id']}", json={"failed": "first picture"})
    ).status_code == 204
    assert value(stage, "vdi_probes_total", outcome="first picture") == 1
    assert value(stage, "session_glass_to_glass_seconds_count") is None


@pytest.mark.parametrize("who", [BOB, ROOT])
async def test_only_the_owner_may(stage: ApiStage, who: Any) -> None:
    program = await stage.program(who)
    async with agent(stage) as asked:
        refused = await program.post(ONE, json={"state": STATE})
        assert refused.json()["detail"] == "Only the owner of desktop 'alice-desktop' may probe it."
        assert asked.asked == []
        alice = (await (await stage.program()).post(ONE, json={"state": STATE})).json()
    assert (await program.put(f"{ONE}/{alice['id']}", json={"figures": FIGURES})).status_code == 403


@pytest.mark.parametrize(
    ("template", "session", "said"),
    [
        (
            {"protocol": "Web"},
            {},
            "This desktop cannot be measured: the probe supports only the stream of Selkies 2.",
        ),
        ({}, {"suspended": True}, f"{NO_PICTURE}: it is suspended. Resume it first."),
        ({}, {"status": {"phase": "Creating"}}, f"{NO_PICTURE}: it is Creating."),
    ],
    ids=str,
)
async def test_only_a_running_stream_of_selkies_is_measured(
    stage: ApiStage, template: dict[str, Any], session: dict[str, Any], said: str
) -> None:
    stage.template(**template)
    stage.session("alice-desktop", **{"status": RUNNING} | session)
    refused = await (await stage.program()).post(ONE, json={"state": STATE})
    assert (refused.status_code, refused.json()["detail"]) == (409, said)


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (
            404,
            "there is GET /activity",
            "cannot show a mark to measure: it is older than this gateway",
        ),
        (
            503,
            "the keyboard's map has no XF86Launch9",
            "cannot show its mark (503): the keyboard's map has no",
        ),
        (200, "<html>", "did not return a valid mark"),
        (200, DEEP[:2000].decode(), "did not return a valid mark"),
        (200, MARK | {"size": 10**9}, "did not return a valid mark"),
        (200, "x" * 5000, "is too large"),
        (302, "", "cannot show its mark (302)"),
    ],
)
async def test_what_an_agent_answers_is_a_strangers_word(
    stage: ApiStage, status: int, body: Any, words: str
) -> None:
    program = await stage.program()
    async with agent(stage) as asked:
        asked.status, asked.body = status, body
        refused = await program.post(ONE, json={"state": STATE})
    assert refused.status_code == 409
    assert words in refused.json()["detail"]


async def test_without_the_desktop_key_no_agent_is_asked(stage: ApiStage) -> None:
    program, key = await stage.program(), stage.cluster.secrets.pop(KEY_SECRET)
    async with agent(stage) as asked:
        assert (await program.post(ONE, json={"state": STATE})).status_code == 503, "no Secret"
        stage.cluster.secrets[KEY_SECRET] = dict.fromkeys(key, "")
        refused = await program.post(ONE, json={"state": STATE})
    assert refused.status_code == 503 and "is not known right now" in refused.json()["detail"]
    assert asked.asked == []


async def test_one_session_is_probed_so_often_and_no_more(stage: ApiStage) -> None:
    program = await stage.program()
    async with agent(stage) as asked:
        answers = [
            (await program.post(ONE, json={"state": STATE})).status_code
            for _ in range(MAX_PROBES + 1)
        ]
    assert answers == [200] * MAX_PROBES + [429]
    assert len(asked.asked) == MAX_PROBES


async def test_figures_have_their_limits(stage: ApiStage) -> None:
    program = await stage.program()
    wrong: tuple[dict[str, Any], ...] = (
        {"figures": FIGURES | {"inputToPhotonMs": [10.0] * 201}},
        {"figures": FIGURES | {"inputToPhotonMs": [-1.0]}},
        {"figures": FIGURES | {"inputToPhotonMs": [1e9]}},
        {"figures": FIGURES | {"framesPerSecond": 1e9}},
        {"figures": FIGURES | {"more": 1}},
        {"figures": FIGURES, "failed": "measuring"},
        {"failed": "somewhere"},
        {},
    )
    for body in wrong:
        assert (await program.put(f"{ONE}/abc", json=body)).status_code == 422, body
    assert (await program.put(f"{ONE}/abc", json={"figures": FIGURES})).status_code == 404
