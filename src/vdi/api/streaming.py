"""Streaming and content of a template's desktops: `spec.streaming`, `spec.app` and `spec.keyboard`.

The tables of what each generation of Selkies knows stand here, because the CRD's rules are made
from them; `vdi.session.template_image` turns the fields into environment variables. Sources:
`settings.py` of Selkies 2.1.0; for Selkies 1, `__main__.py` and `docs/component.md` of
selkies-gstreamer 1.6.
"""

from enum import StrEnum
from typing import Annotated, ClassVar

import msgspec

from vdi.api.constraints import KEYBOARD_LAYOUT, KEYBOARD_VARIANT, WORDS, Rule, doc

# Part of the names of Selkies 1 images: the project's name at that time.
SELKIES_1_IMAGE = "selkies-gstreamer"
# Encoders of Selkies 2, in its own order. Each uses the GPU's encoder for its codec if there is
# one, else the CPU's.
ENCODERS = ("h264enc", "h265enc", "vp8enc", "vp9enc", "av1enc", "h264enc-striped", "jpeg")
# Stripes of pictures, and single pictures: WebRTC carries neither.
ENCODERS_WITHOUT_WEBRTC = ("h264enc-striped", "jpeg")
# Names of Selkies 1 that Selkies 2 reads as h264enc.
ENCODER_ALIASES = ("x264enc", "openh264enc")
# Encoders of Selkies 1: plugins of GStreamer.
ENCODERS_1 = (
    *("nvh264enc", "vah264enc", "x264enc", "openh264enc", "nvh265enc", "vah265enc", "x265enc"),
    *("vp8enc", "vavp9enc", "vp9enc", "nvav1enc", "vaav1enc", "svtav1enc", "av1enc", "rav1enc"),
)
# Fields for which Selkies 1 has no setting.
ONLY_SELKIES_2 = (
    "display",
    "audio",
    "microphone",
    "fileTransfer",
    "printing",
    "gamepad",
    "secondScreen",
    "locked",
)
# Settings that a user may change in the page unless the template forbids it.
LOCKABLE = ("encoder", "framerate", "bitrate")
# Variables that each field sets. The CRD refuses them in `env` beside that field.
VARIABLES: dict[str, tuple[str, ...]] = {
    "streaming.display": ("SELKIES_WAYLAND", "PIXELFLUX_WAYLAND"),
    "streaming.transport": (
        "SELKIES_MODE",
        "SELKIES_ENABLE_DUAL_MODE",
        "SELKIES_WEBRTC_ICE_LITE",
        "SELKIES_WEBRTC_UDP_MUX_PORT",
    ),
    "streaming.encoder": ("SELKIES_ENCODER",),
    "streaming.framerate": ("SELKIES_FRAMERATE",),
    "streaming.bitrate": (
        "SELKIES_VIDEO_BITRATE",
        "SELKIES_RATE_CONTROL_MODE",
        "SELKIES_ENABLE_RATE_CONTROL",
    ),
    "streaming.audio": ("SELKIES_AUDIO_ENABLED",),
    "streaming.microphone": ("SELKIES_MICROPHONE_ENABLED",),
    "streaming.clipboard": ("SELKIES_ENABLE_CLIPBOARD",),
    "streaming.fileTransfer": ("SELKIES_FILE_TRANSFERS",),
    "streaming.printing": ("SELKIES_PRINTING_ENABLED",),
    "streaming.gamepad": ("SELKIES_GAMEPAD_ENABLED",),
    "streaming.secondScreen": ("SELKIES_SECOND_SCREEN",),
    "streaming.resize": ("SELKIES_ENABLE_RESIZE",),
    "app.command": ("VDI_APP",),
    "keyboard.layout": ("VDI_KEYBOARD_LAYOUT",),
    "keyboard.variant": ("VDI_KEYBOARD_VARIANT",),
}


class Display(StrEnum):
    """Values of `streaming.display`."""

    X11 = "X11"
    WAYLAND = "Wayland"
    AUTO = "Auto"


class Transport(StrEnum):
    """Values of `streaming.transport`."""

    WEBSOCKET = "WebSocket"
    WEBRTC = "WebRTC"


class Clipboard(StrEnum):
    """Values of `streaming.clipboard`."""

    BOTH = "Both"
    IN = "In"
    OUT = "Out"
    NONE = "None"


class FileTransfer(StrEnum):
    """Values of `streaming.fileTransfer`."""

    BOTH = "Both"
    UPLOAD = "Upload"
    DOWNLOAD = "Download"
    NONE = "None"


class TemplateStreaming(msgspec.Struct, rename="camel", omit_defaults=True):
    """Settings of the desktop's picture, sound and input. Omitted settings are those of the
    image.
    """

    rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            "!has(self.locked) || self.locked.all(one, "
            + " || ".join(f"(one == '{field}' && has(self.{field}))" for field in LOCKABLE)
            + ")",
            "locked must name only fields that are also set here",
            '"locks \'" + self.locked.filter(one, '
            + " && ".join(f"!(one == '{field}' && has(self.{field}))" for field in LOCKABLE)
            + ')[0] + "\', which is not set; set it, or take it out of locked"',
            ".locked",
        ),
        Rule(
            "!(has(self.microphone) && self.microphone && has(self.audio) && !self.audio)",
            "'true' needs audio: true, because Selkies has no microphone without sound",
            field_path=".microphone",
        ),
        Rule(
            "!(has(self.transport) && self.transport == 'WebRTC' && has(self.encoder) &&"
            f" self.encoder in {list(ENCODERS_WITHOUT_WEBRTC)})",
            "must be an encoder that WebRTC supports",
            "\"'\" + self.encoder + \"' is not supported by transport 'WebRTC'; allowed: "
            + ", ".join(encoder for encoder in ENCODERS if encoder not in ENCODERS_WITHOUT_WEBRTC)
            + '"',
            ".encoder",
        ),
    )

    selkies: Annotated[
        str | None,
        doc(
            "Generation of Selkies in the image. Default: 1 if the image's name contains"
            f" {SELKIES_1_IMAGE}, else 2.",
            enum=["1", "2"],
        ),
    ] = None
    transport: Annotated[
        str | None,
        doc(
            "Transport of the picture: one WebSocket, or WebRTC over UDP. WebRTC needs a TURN"
            " server, and without it falls back to the WebSocket.",
            enum=[transport.value for transport in Transport],
        ),
    ] = None
    display: Annotated[
        str | None,
        doc(
            "What the desktop is drawn on. Auto: Wayland where Mesa drives the GPU itself (Intel,"
            " AMD), else X11; our own images alone support Auto. Default: X11.",
            enum=[display.value for display in Display],
        ),
    ] = None
    encoder: Annotated[
        str | None,
        doc(
            "Initial encoder, by the names of the image's generation of Selkies.",
            enum=[*ENCODERS, *(one for one in ENCODERS_1 if one not in ENCODERS)],
        ),
    ] = None
    framerate: Annotated[int | None, doc("Maximum frames per second.", minimum=8, maximum=240)] = (
        None
    )
    bitrate: Annotated[
        int | None, doc("Bit rate of the video, in kbit/s.", minimum=100, maximum=1_000_000)
    ] = None
    audio: Annotated[bool | None, doc("Sound from the desktop.")] = None
    microphone: Annotated[bool | None, doc("Sound from the browser. Needs audio.")] = None
    clipboard: Annotated[
        str | None,
        doc(
            "Allowed directions: both, into the desktop only, out of the desktop only, or none.",
            enum=[clipboard.value for clipboard in Clipboard],
        ),
    ] = None
    file_transfer: Annotated[
        str | None,
        doc(
            "Allowed directions of file transfers in the page.",
            enum=[files.value for files in FileTransfer],
        ),
    ] = None
    printing: Annotated[bool | None, doc("Printing to the browser, as PDF.")] = None
    gamepad: Annotated[bool | None, doc("Gamepads of the browser.")] = None
    second_screen: Annotated[bool | None, doc("A second window as a second screen.")] = None
    resize: Annotated[bool | None, doc("The desktop follows the size of the browser's window.")] = (
        None
    )
    locked: Annotated[
        tuple[Annotated[str, msgspec.Meta(extra_json_schema={"enum": list(LOCKABLE)})], ...],
        doc(
            "Settings that the user cannot change in the browser.",
            maxItems=len(LOCKABLE),
            **{"x-kubernetes-list-type": "set"},
        ),
    ] = ()


class TemplateApp(msgspec.Struct, rename="camel", omit_defaults=True):
    """A single application instead of a whole desktop. The image must support it, as images/desktop
    does.
    """

    command: Annotated[
        tuple[Annotated[str, msgspec.Meta(extra_json_schema={"maxLength": 1024})], ...],
        doc("The program and its arguments.", WORDS, minItems=1, maxItems=64),
    ]


class TemplateKeyboard(msgspec.Struct, rename="camel", omit_defaults=True):
    """Keyboard layout of the desktop. The image must support it, as images/desktop does."""

    layout: Annotated[str, doc("Layout, by its setxkbmap name.", KEYBOARD_LAYOUT, maxLength=32)]
    variant: Annotated[
        str | None,
        doc("Variant of the layout, by its setxkbmap name.", KEYBOARD_VARIANT, maxLength=32),
    ] = None


def _has(path: str) -> str:
    """The CEL that says whether a template's spec sets a field."""
    names = path.split(".")
    return " && ".join(f"has(self.{'.'.join(names[: end + 1])})" for end in range(len(names)))


def _said_once(path: str, variables: tuple[str, ...]) -> Rule:
    named = " or ".join(variables)
    return Rule(
        f"!({_has(path)} && has(self.env)) || !self.env.exists(one, one.name in {list(variables)})",
        f"{path} and {named} in env set the same thing; keep only one of them",
        field_path=f".{path.split('.', 1)[0]}",
    )


_GENERATION = (
    "(has(self.streaming) && has(self.streaming.selkies) ? self.streaming.selkies"
    f" : (self.image.contains('{SELKIES_1_IMAGE}') ? '1' : '2'))"
)
_GIVEN = {
    field: f"has(self.streaming.{field})" for field in ("transport", "encoder", *ONLY_SELKIES_2)
}


def _encoder_of(generation: str, encoders: tuple[str, ...], remedy: str) -> Rule:
    allowed = f"allowed: {', '.join(encoders)}{remedy}"
    return Rule(
        f"!(has(self.streaming) && {_GIVEN['encoder']}) || {_GENERATION} != '{generation}' || "
        f"self.streaming.encoder in {list(encoders)}",
        f"must be an encoder of Selkies {generation}; {allowed}",
        f'"\'" + self.streaming.encoder + "\' is not an encoder of Selkies {generation}, the'
        f' generation of the image (streaming.selkies, or by its name); {allowed}"',
        ".streaming.encoder",
    )


_SERVES_WEB = "has(self.protocol) && self.protocol == 'Web'"
_OF_SELKIES = ("streaming", "app", "keyboard", "recording", "watermark", "agents")

# Rules of a template's spec: across `protocol`, `basicAuthSecret`, `streaming`, `image`, `app`,
# `keyboard`, `env`.
RULES = (
    Rule(
        f"!({_SERVES_WEB}) || !({' || '.join(f'has(self.{field})' for field in _OF_SELKIES)})",
        f"{', '.join(_OF_SELKIES)} are settings of Selkies, which an image with protocol 'Web' does"
        " not have; remove them",
        field_path=".protocol",
    ),
    Rule(
        f"!has(self.basicAuthSecret) || ({_SERVES_WEB}) || {_GENERATION} == '1'",
        "Selkies 2 uses tokens of the gateway instead of basic auth; allowed with protocol 'Web'"
        " and with Selkies 1",
        field_path=".basicAuthSecret",
    ),
    Rule(
        f"!(has(self.streaming) && {_GIVEN['display']} && {_GIVEN['secondScreen']}) ||"
        " has(self.app) || self.streaming.display != 'Wayland' || !self.streaming.secondScreen",
        "'true' is not possible with display 'Wayland', whose window manager has one screen;"
        " allowed: false, or display 'X11', or a single application (app)",
        field_path=".streaming.secondScreen",
    ),
    _encoder_of("2", ENCODERS, " (h264enc uses the GPU's encoder automatically)"),
    _encoder_of("1", ENCODERS_1, " (nvh264enc on an NVIDIA GPU, x264enc without a GPU)"),
    Rule(
        f"!(has(self.streaming) && ({' || '.join(_GIVEN[field] for field in ONLY_SELKIES_2)})) ||"
        f" {_GENERATION} != '1'",
        f"Selkies 1 has no setting for {', '.join(ONLY_SELKIES_2)}",
        "'Selkies 1, the generation of the image (streaming.selkies, or by its name), has no"
        " setting for'"
        + "".join(f" + ({_GIVEN[field]} ? ' {field}' : '')" for field in ONLY_SELKIES_2)
        + " + '; leave it out'",
        ".streaming",
    ),
    Rule(
        f"!(has(self.recording) || has(self.watermark) || has(self.agents)) || {_GENERATION}"
        " != '1'",
        "recording, watermark and agents are not possible with Selkies 1, the generation of the"
        " image (streaming.selkies, or by its name); remove them",
        field_path=".streaming",
    ),
    Rule(
        "!(has(self.recording) && has(self.recording.mode) && self.recording.mode != 'Off' &&"
        " has(self.streaming) && has(self.streaming.display)) || self.streaming.display == 'X11'",
        "only a desktop on X11 can be recorded",
        '"\'" + self.streaming.display + "\' cannot be recorded; allowed with recording: X11"',
        ".streaming.display",
    ),
    Rule(
        f"!(has(self.streaming) && {_GIVEN['transport']}) || {_GENERATION} != '1' || "
        "self.streaming.transport == 'WebRTC'",
        "'WebSocket' is not a transport of Selkies 1, the generation of the image"
        " (streaming.selkies, or by its name); allowed: WebRTC",
        field_path=".streaming.transport",
    ),
    *(_said_once(path, variables) for path, variables in VARIABLES.items()),
)
