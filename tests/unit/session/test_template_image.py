"""`streaming`, `app` and `keyboard` become settings that Selkies takes, or a refusal in words."""

import json
import re
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.builders import a_template
from support.streaming_page import ROWS, streams
from unit.session.resolving import refused
from unit.session.selkies_settings import meaning
from vdi.api.streaming import ENCODERS, LOCKABLE, ONLY_SELKIES_2, VARIABLES
from vdi.api.template import TemplateSpec
from vdi.session.template_image import (
    find_image_problems,
    find_warnings,
    generation,
    settings,
    uses_webrtc,
)

SELKIES_1 = "ghcr.io/selkies-project/selkies-gstreamer/gst-py-example:v1.6.2-ubuntu24.04"
ALWAYS = {
    "SELKIES_TURN_HOST": "localhost",
    "SELKIES_STUN_HOST": "localhost",
    "SELKIES_COMMAND_ENABLED": "false",
}


def spec(**fields: Any) -> TemplateSpec:
    return a_template(**fields).spec


def sent(**fields: Any) -> dict[str, str]:
    variables = settings(spec(**fields))
    names = [variable.name for variable in variables]
    assert len(set(names)) == len(names), names
    return {variable.name: variable.value or "" for variable in variables}


def streaming(**fields: Any) -> dict[str, str]:
    """What these fields of `streaming` add to what is always sent."""
    variables = sent(streaming=fields)
    return {name: value for name, value in variables.items() if ALWAYS.get(name) != value}


def test_empty_template_gets_only_safety_settings() -> None:
    assert sent() == ALWAYS


def test_what_the_templates_env_says_of_it_holds() -> None:
    env = [{"name": name, "value": "mine"} for name in ALWAYS]
    assert sent(env=env) == {}


def test_what_no_row_of_the_page_shows() -> None:
    assert streaming(encoder="jpeg") == {
        "SELKIES_ENCODER": "jpeg,h264enc,h265enc,vp8enc,vp9enc,av1enc,h264enc-striped"
    }


def test_selkies_1_gets_its_own_words_and_no_locks() -> None:
    fields = {"transport": "WebRTC", "encoder": "nvh264enc", "framerate": 60, "bitrate": 8000}
    fields |= {"clipboard": "In", "resize": False}
    assert sent(image=SELKIES_1, streaming=fields) == {
        "SELKIES_TURN_HOST": "localhost",
        "SELKIES_STUN_HOST": "localhost",
        "SELKIES_ENCODER": "nvh264enc",
        "SELKIES_FRAMERATE": "60",
        "SELKIES_VIDEO_BITRATE": "8000",
        "SELKIES_ENABLE_CLIPBOARD": "in",
        "SELKIES_ENABLE_RESIZE": "false",
    }


@pytest.mark.parametrize(
    ("image", "said", "desired"),
    [
        ("registry.example.com/desktop:1", None, "2"),
        (SELKIES_1, None, "1"),
        (SELKIES_1, "2", "2"),
        ("registry.example.com/mine:1", "1", "1"),
    ],
)
def test_generation_is_the_templates_else_the_image_names(
    image: str, said: str | None, desired: str
) -> None:
    assert generation(spec(image=image, streaming={"selkies": said} if said else {})) == desired


def test_an_application_and_a_keyboard() -> None:
    variables = sent(
        app={"command": ["firefox-esr", "--new-window", 'a "b"']}, keyboard={"layout": "de"}
    )
    assert json.loads(variables["VDI_APP"]) == ["firefox-esr", "--new-window", 'a "b"']
    assert variables["VDI_KEYBOARD_LAYOUT"] == "de" and "VDI_KEYBOARD_VARIANT" not in variables
    variables = sent(keyboard={"layout": "us,ru", "variant": ",phonetic"})
    assert variables["VDI_KEYBOARD_VARIANT"] == ",phonetic"


def test_the_kubelet_puts_no_variable_into_a_command() -> None:
    assert (
        sent(app={"command": ["sh", "-c", "echo $(HOME) $HOME"]})["VDI_APP"]
        == '["sh","-c","echo $$(HOME) $$HOME"]'
    )


ALL_OF_AGENTS = {"recordText": True, "run": True, "countsAsUse": True, "enabled": True}


@pytest.mark.parametrize(
    ("fields", "variable", "value"),
    [
        ({}, "VDI_AGENTS", None),
        ({"agents": {}}, "VDI_AGENTS", None),
        ({"agents": {"run": True}}, "VDI_AGENTS", None),
        ({"agents": {"enabled": True}}, "VDI_AGENTS", "enabled"),
        ({"agents": ALL_OF_AGENTS}, "VDI_AGENTS", "enabled,countsAsUse,run,recordText"),
        ({"recording": {"mode": "Off"}}, "VDI_RECORDING", None),
        ({"recording": {"mode": "OnDemand"}}, "VDI_RECORDING", "OnDemand"),
        ({"recording": {"mode": "Always"}}, "VDI_RECORDING", "Always"),
    ],
)
def test_agents_and_recording_reach_the_desktop(
    fields: dict[str, Any], variable: str, value: str | None
) -> None:
    assert sent(**fields).get(variable) == value


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"agents": {"enabled": True}}, "spec.agents needs the gateway, through which agents act"),
        (
            {"recording": {"mode": "Always"}},
            "spec.recording needs the gateway, which keeps the recordings",
        ),
    ],
)
def test_agents_and_recording_need_the_gateway(fields: dict[str, Any], words: str) -> None:
    assert not list(find_image_problems(spec(**fields), behind_gateway=True))
    problems = list(find_image_problems(spec(**fields), behind_gateway=False))
    assert problems == [f"{words} (gateway.enabled in the chart's values)"]


@pytest.mark.parametrize(
    ("fields", "desired"),
    [
        ({}, False),
        ({"streaming": {"transport": "WebRTC"}}, True),
        ({"streaming": {"transport": "WebSocket"}}, False),
        ({"env": [{"name": "SELKIES_MODE", "value": "webrtc"}]}, True),
        ({"env": [{"name": "SELKIES_MODE", "value": "websockets"}]}, False),
        ({"image": SELKIES_1, "streaming": {"transport": "WebRTC"}}, False),
    ],
)
def test_who_asks_is_reported_which_templates_stream_over_webrtc(
    fields: dict[str, Any], desired: bool
) -> None:
    assert uses_webrtc(spec(**fields)) is desired


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [("display", "Mir", "; allowed: X11, Wayland, Auto"), ("clipboard", "Ask", "")],
)
def test_a_value_of_a_later_version_is_refused_in_words(
    field: str, value: str, allowed: str
) -> None:
    blocked = refused(streaming={field: value})
    assert blocked.reason == "InvalidTemplate"
    assert f"spec.streaming.{field}: {value!r} is not allowed{allowed}" in blocked.message


@pytest.mark.parametrize(
    ("image", "name", "value", "words"),
    [
        (
            "i",
            "SELKIES_ENCODER",
            "nvh264enc",
            "SELKIES_ENCODER names nvh264enc, an encoder of Selkies 1",
        ),
        ("i", "SELKIES_ENCODER", "vah264enc, h264enc,nvav1enc", "names vah264enc, nvav1enc"),
        (
            "i",
            "SELKIES_KEYFRAME_DISTANCE",
            "2",
            "SELKIES_KEYFRAME_DISTANCE is a setting of Selkies 1",
        ),
        ("i", "SELKIES_ENCODER", "vp9enc,x264enc", ""),
        (SELKIES_1, "SELKIES_ENCODER", "nvh264enc", ""),
    ],
)
def test_what_the_image_passes_over_is_said(image: str, name: str, value: str, words: str) -> None:
    said = list(find_warnings(spec(image=image, env=[{"name": name, "value": value}])))
    assert [words in one for one in said] == ([True] if words else [])


switches = {
    name: st.booleans()
    for name in ("audio", "microphone", "printing", "gamepad", "secondScreen", "resize")
}
any_stream = st.fixed_dictionaries(
    {},
    optional={
        "display": st.sampled_from(["X11", "Wayland", "Auto"]),
        "transport": st.sampled_from(["WebSocket", "WebRTC"]),
        "encoder": st.sampled_from(ENCODERS),
        "framerate": st.integers(8, 240),
        "bitrate": st.integers(100, 1_000_000),
        "clipboard": st.sampled_from(["Both", "In", "Out", "None"]),
        "fileTransfer": st.sampled_from(["Both", "Upload", "Download", "None"]),
        "locked": st.lists(st.sampled_from(LOCKABLE), unique=True),
        **switches,
    },
)


@given(any_stream)
def test_selkies_2_takes_each_field_as_it_was_meant(fields: dict[str, Any]) -> None:
    template = spec(streaming=fields)
    taken = {
        setting.name: meaning(setting.name, setting.value or "") for setting in settings(template)
    }
    locked = fields.get("locked", [])
    for field, value in fields.items():
        if field == "locked":
            continue
        took = taken[VARIABLES[f"streaming.{field}"][0]]
        if field in LOCKABLE:
            assert took == (value, field in locked)
        if field in switches:
            assert took == (value, not value), "what is forbidden cannot be turned on in the page"


def test_every_field_of_streaming_has_its_variables() -> None:
    fields = {field.encode_name for field in msgspec.structs.fields(type(spec().streaming))}
    assert {path.split(".")[1] for path in VARIABLES if path.startswith("streaming.")} == fields - {
        "selkies",
        "locked",
    }
    assert set(ONLY_SELKIES_2) <= fields


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_each_row_of_the_page_is_what_is_sent(row: list[str]) -> None:
    for stream, cell in streams(row):
        if cell == "refused":
            continue  # by the API server: tests/cluster/test_crd_streaming.py
        template = spec(streaming=stream)
        variables = {
            setting.name: setting.value
            for setting in settings(template)
            if ALWAYS.get(setting.name) != setting.value
        }
        words = re.findall(r"`(\w+)=([^`]+)`", cell.replace("\\|", "|"))
        assert variables == dict(words), cell


def test_the_page_has_every_field() -> None:
    shown = {name for row in ROWS for name in re.findall(r"(\w+):", row[0])}
    assert {path.split(".")[1] for path in VARIABLES if path.startswith("streaming.")} <= shown
