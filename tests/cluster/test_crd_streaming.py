"""`streaming`, `app` and `keyboard` of a template: refused in words by the API server, and
variables of the pod.
"""

import json
from typing import Any

import pytest

from cluster.crd_server import Server
from cluster.operator_stage import Stage
from support.streaming_page import ROWS, streams
from support.waiting import eventually
from vdi.api.streaming import ENCODERS, ENCODERS_1, VARIABLES
from vdi.kinds import TEMPLATES
from vdi.session.template_image import SETTINGS_IGNORED

SELKIES_1 = "ghcr.io/selkies-project/selkies-gstreamer/gst-py-example:latest"
NAMED = "the generation of the image (streaming.selkies, or by its name)"
SAMPLES: dict[str, Any] = {
    "streaming.display": "Wayland",
    "streaming.transport": "WebSocket",
    "streaming.encoder": "h264enc",
    "streaming.framerate": 60,
    "streaming.bitrate": 8000,
    "streaming.clipboard": "None",
    "streaming.fileTransfer": "None",
    "app.command": ["xterm"],
    "keyboard.layout": "de",
    "keyboard.variant": "nodeadkeys",
}


def streaming(**fields: Any) -> dict[str, Any]:
    return {"image": "i", "streaming": fields}


def streaming_1(**fields: Any) -> dict[str, Any]:
    return {"image": SELKIES_1, "streaming": fields}


def keyboard(**fields: str) -> dict[str, Any]:
    return {"image": "i", "keyboard": fields}


def label(case: object) -> str | None:
    return json.dumps(case)[:80] if isinstance(case, dict) else None


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    (
        streaming(selkies="3"),
        "streaming.selkies",
        'Unsupported value: "3": supported values: "1", "2"',
    ),
    (
        streaming(display="wayland"),
        "streaming.display",
        'supported values: "X11", "Wayland", "Auto"',
    ),
    (
        streaming(display="Wayland", secondScreen=True),
        "streaming.secondScreen",
        "whose window manager has one screen",
    ),
    (streaming(transport="udp"), "streaming.transport", 'supported values: "WebSocket", "WebRTC"'),
    (
        streaming(encoder="h264"),
        "streaming.encoder",
        'Unsupported value: "h264": supported values: "h264enc"',
    ),
    (streaming(framerate=7), "streaming.framerate", "should be greater than"),
    (streaming(framerate=241), "streaming.framerate", "should be less than or equal to 240"),
    (streaming(bitrate=99), "streaming.bitrate", "should be greater than or equal to 100"),
    (streaming(audio="yes"), "streaming.audio", "must be of type boolean"),
    (
        streaming(clipboard="in"),
        "streaming.clipboard",
        '"in": supported values: "Both", "In", "Out", "None"',
    ),
    (
        streaming(fileTransfer=True),
        "streaming.fileTransfer",
        '"Both", "Upload", "Download", "None"',
    ),
    (streaming(frameRate=60), "streaming.frameRate", "unknown field"),
    (
        streaming(locked=["audio"]),
        "streaming.locked[0]",
        '"audio": supported values: "encoder", "framerate"',
    ),
    (streaming(framerate=60, locked=["framerate"] * 2), "streaming.locked[1]", "Duplicate value"),
    (
        streaming(framerate=60, locked=["framerate", "bitrate"]),
        "streaming.locked",
        "locks 'bitrate', which is not set",
    ),
    (streaming(audio=False, microphone=True), "streaming.microphone", "'true' needs audio: true"),
    (
        streaming(transport="WebRTC", encoder="jpeg"),
        "streaming.encoder",
        "'jpeg' is not supported by transport 'WebRTC'",
    ),
    (
        streaming(encoder="nvh264enc"),
        "streaming.encoder",
        f"of Selkies 2, {NAMED}; allowed: {', '.join(ENCODERS)}",
    ),
    (
        streaming_1(encoder="h264enc"),
        "streaming.encoder",
        f"of Selkies 1, {NAMED}; allowed: {', '.join(ENCODERS_1)}",
    ),
    (
        streaming_1(selkies="2", encoder="nvh264enc"),
        "streaming.encoder",
        "is not an encoder of Selkies 2",
    ),
    (
        streaming(selkies="1", encoder="jpeg"),
        "streaming.encoder",
        "'jpeg' is not an encoder of Selkies 1",
    ),
    (
        streaming_1(audio=True, framerate=60, locked=["framerate"]),
        "streaming",
        "has no setting for audio locked;",
    ),
    (
        streaming_1(transport="WebSocket"),
        "streaming.transport",
        "'WebSocket' is not a transport of Selkies 1",
    ),
    ({"image": "i", "app": {}}, "app.command", "Required value"),
    ({"image": "i", "app": {"command": []}}, "app.command", "should have at least 1 items"),
    (
        {"image": "i", "app": {"command": ["xterm", ""]}},
        "app.command",
        "must be a program and its arguments",
    ),
    (keyboard(), "keyboard.layout", "Required value"),
    (keyboard(layout="de; reboot"), "keyboard.layout", "'de; reboot' is not a layout of setxkbmap"),
    (keyboard(layout="de", variant="no keys"), "keyboard.variant", "'no keys' is not a variant"),
]


@pytest.mark.parametrize(("spec", "field", "words"), REFUSED, ids=label)
def test_wrong_stream_is_refused_with_what_is_allowed(
    server: Server, spec: dict[str, Any], field: str, words: str
) -> None:
    said = server.refused("VDITemplate", spec)
    assert f"spec.{field}" in said and words in said, said


def test_documented_streaming_refusals_are_enforced(server: Server) -> None:
    for row in ROWS:
        for stream, cell in streams(row):
            if cell == "refused":
                server.refused("VDITemplate", streaming(**stream))
            else:
                server.accepted("VDITemplate", streaming(**stream))


@pytest.mark.parametrize("path", VARIABLES)
def test_field_and_variable_of_one_setting_are_refused(server: Server, path: str) -> None:
    part, field = path.split(".")
    group = {field: SAMPLES.get(path, True)} | ({"layout": "de"} if part == "keyboard" else {})
    beside = {"image": "i", part: group}
    for name in VARIABLES[path]:
        said = server.refused("VDITemplate", beside | {"env": [{"name": name, "value": "1"}]})
        assert (
            f"spec.{part}: Invalid value" in said
            and f"{path} and " in said
            and name in said
            and "set the same thing" in said
        ), said
    server.accepted("VDITemplate", beside | {"env": [{"name": "LANG", "value": "C"}]})


ACCEPTED: list[dict[str, Any]] = [
    streaming(display="Auto", secondScreen=True),
    {**streaming(display="Wayland", secondScreen=True), "app": {"command": ["xterm"]}},
    streaming(
        selkies="1", encoder="nvh264enc", framerate=240, bitrate=100, clipboard="In", resize=True
    ),
    streaming_1(selkies="2", encoder="h264enc", audio=True),
    streaming(
        framerate=8,
        bitrate=1_000_000,
        encoder="h264enc-striped",
        locked=["bitrate", "framerate", "encoder"],
    ),
    {
        "image": "i",
        "app": {"command": ["firefox-esr", "--new-tab"]},
        "keyboard": {"layout": "us,ru", "variant": ",phonetic"},
    },
    {
        "image": "i",
        "env": [{"name": name, "value": "1"} for names in VARIABLES.values() for name in names],
    },
]


@pytest.mark.parametrize("spec", ACCEPTED, ids=label)
def test_valid_stream_is_stored_unchanged(server: Server, spec: dict[str, Any]) -> None:
    stored = server.accepted("VDITemplate", spec)
    for part in ("streaming", "app", "keyboard", "env"):
        assert stored.get(part) == spec.get(part)


async def test_template_reports_ignored_settings_until_they_are_fixed(stage: Stage) -> None:
    template = await stage.template(env=[{"name": "SELKIES_ENCODER", "value": "nvh264enc"}])

    async def warned() -> list[str]:
        status = (await stage.api.get(TEMPLATES, template, into=dict)).get("status", {})
        return [
            condition["message"]
            for condition in status.get("conditions", ())
            if condition["type"] == SETTINGS_IGNORED
        ]

    async with stage.operator():
        await eventually(warned, "the template says so")
        assert "SELKIES_ENCODER names nvh264enc" in (await warned())[0]
        fixed = {"spec": {"env": [{"name": "SELKIES_ENCODER", "value": "h264enc"}]}}
        await stage.api.patch(TEMPLATES, template, fixed, into=dict)

        async def silent() -> bool:
            return not await warned()

        await eventually(silent, "the template says nothing any more")
