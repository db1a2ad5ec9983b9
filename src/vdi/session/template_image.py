"""Image of a template: generation of Selkies, streaming settings as variables, health path,
renderer. Pure.

`docs/streaming.md` has the settings in tables. A person in the browser may turn off what the
template allows, and never turn on what it forbids: in Selkies 2 a plain `false` can be turned on in
the page for some settings (the microphone), `false|locked` for none.

Selkies 1, as its reference container has it: nginx on NGINX_PORT (8080) before Selkies on
SELKIES_PORT (8081), with `/health` on both; basic auth holds for every path, the health check too.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime

import msgspec

from vdi.api.meta import Condition
from vdi.api.recording import POSITIONS, RecordingMode
from vdi.api.session import GraphicsStatus
from vdi.api.streaming import (
    ENCODER_ALIASES,
    ENCODERS,
    ENCODERS_1,
    SELKIES_1_IMAGE,
    VARIABLES,
    Clipboard,
    Display,
    FileTransfer,
    Transport,
)
from vdi.api.template import DEFAULT_HEALTH_PATH, EnvVar, Protocol, TemplateSpec, VDITemplate
from vdi.session.conditions import renew_condition

# Condition of a template, present and True only while its image ignores a setting of the template.
SETTINGS_IGNORED = "SettingsIgnored"
# UDP port of a desktop in WebRTC mode: one for all its viewers, so that a NetworkPolicy can name
# it.
WEBRTC_PORT = 8083
# Encoders of Selkies 1 that Selkies 2 ignores.
OBSOLETE_ENCODERS = frozenset(ENCODERS_1) - frozenset(ENCODERS) - frozenset(ENCODER_ALIASES)
# Settings of Selkies 1 that Selkies 2 does not read.
OBSOLETE_VARIABLES = frozenset(
    {
        "SELKIES_AUDIO_PACKETLOSS_PERCENT",
        "SELKIES_JSON_CONFIG",
        "SELKIES_KEYFRAME_DISTANCE",
        "SELKIES_METRICS_HTTP_PORT",
        "SELKIES_VIDEO_PACKETLOSS_PERCENT",
    }
)

# Selkies of either generation uses public TURN and STUN servers unless it is given others: the
# stream would pass through servers of strangers.
_SAFE = (("SELKIES_TURN_HOST", "localhost"), ("SELKIES_STUN_HOST", "localhost"))
# Selkies' own default, but its example image lets the page run commands in the pod.
_SAFE_2 = ("SELKIES_COMMAND_ENABLED", "false")
# The keys are text: a template of a later version may have other values, which
# `find_image_problems` reports. Selkies does not know `auto` and takes it for `false`; the start-up
# of our own image reads it.
_WAYLAND: Mapping[str, str] = {Display.X11: "false", Display.WAYLAND: "true", Display.AUTO: "auto"}
_CLIPBOARD: Mapping[str, str] = {
    Clipboard.BOTH: "true",
    Clipboard.IN: "in",
    Clipboard.OUT: "out",
    Clipboard.NONE: "false",
}
_FILES: Mapping[str, str] = {
    FileTransfer.BOTH: "upload,download",
    FileTransfer.UPLOAD: "upload",
    FileTransfer.DOWNLOAD: "download",
    FileTransfer.NONE: "none",
}
_SWITCHES = ("audio", "microphone", "printing", "gamepad", "secondScreen", "resize")
_HEALTH_PATH_1 = "/health"
# Images that Selkies publishes as parts of others, such as `gst-web`: nginx with the files of
# Selkies 1's page.
_WITHOUT_DESKTOP = re.compile(
    r"(?:^|/)selkies(?:-gstreamer)?/(gst-web(?:-core)?|gstreamer|py-build|js-interposer)(?=[:@]|$)"
)
# `status.graphics.renderer` if Mesa renders on the CPU.
SOFTWARE = "Software"
CAPABILITY_MISSING = "GraphicsCapabilityMissing"
# An Intel or AMD GPU: in a container, programs can render on it with Wayland, but not with X11.
NOT_ON_X11 = "NotSupported"
NO_GPU_DEVICE = "NoGPU"


def generation(spec: TemplateSpec) -> str:
    """The generation of Selkies in the template's image: "1" or "2"; empty with protocol Web."""
    if spec.protocol is Protocol.WEB:
        return ""
    return spec.streaming.selkies or ("1" if SELKIES_1_IMAGE in spec.image else "2")


def uses_webrtc(spec: TemplateSpec) -> bool:
    """Whether desktops of this template start in the WebRTC mode of Selkies 2, by `streaming` or by
    `env`.
    """
    if generation(spec) != "2":
        return False
    if spec.streaming.transport:
        return spec.streaming.transport == Transport.WEBRTC
    return any(
        variable.name == "SELKIES_MODE" and (variable.value or "").strip().lower() == "webrtc"
        for variable in spec.env
    )


def settings(spec: TemplateSpec) -> tuple[EnvVar, ...]:
    """Variables of a desktop besides the template's own `env`, each once.

    Omitted settings are not sent, except those that safety needs and that `env` does not set.
    """
    if spec.protocol is Protocol.WEB:
        return ()
    modern = generation(spec) == "2"
    safe = (*_SAFE, _SAFE_2) if modern else _SAFE
    said = {variable.name for variable in spec.env}
    sent = [(name, value) for name, value in safe if name not in said]
    sent += _streaming_2(spec) if modern else _streaming_1(spec)
    if spec.app:
        # The kubelet would replace $(NAME) by a variable; $$ prevents that.
        sent.append(("VDI_APP", msgspec.json.encode(spec.app.command).decode().replace("$", "$$")))
    if spec.recording and spec.recording.mode is not RecordingMode.OFF:
        sent.append(("VDI_RECORDING", spec.recording.mode.value))
    if spec.agents and spec.agents.enabled:
        # The names of the fields that are true.
        sent.append(("VDI_AGENTS", ",".join(msgspec.to_builtins(spec.agents))))
    if spec.watermark:
        sent.append(("VDI_WATERMARK", spec.watermark.text.replace("$", "$$")))
        sent.append(
            ("SELKIES_WATERMARK_LOCATION", str(POSITIONS.index(spec.watermark.position) + 1))
        )
    if spec.keyboard:
        sent.append(("VDI_KEYBOARD_LAYOUT", spec.keyboard.layout))
        if spec.keyboard.variant:
            sent.append(("VDI_KEYBOARD_VARIANT", spec.keyboard.variant))
    return tuple(EnvVar(name, value) for name, value in sent)


def _streaming_2(spec: TemplateSpec) -> Iterator[tuple[str, str]]:
    given, said = spec.streaming, _said(spec)
    if given.display:
        yield "SELKIES_WAYLAND", _WAYLAND[given.display]
    if given.transport == Transport.WEBRTC:
        yield "SELKIES_MODE", "webrtc"
        yield "SELKIES_ENABLE_DUAL_MODE", "true"  # fall back to the WebSocket where UDP is blocked
        yield "SELKIES_WEBRTC_ICE_LITE", "true"  # else it also asks public STUN servers
        yield "SELKIES_WEBRTC_UDP_MUX_PORT", str(WEBRTC_PORT)
    elif given.transport:
        yield "SELKIES_MODE", "websockets"
        yield "SELKIES_ENABLE_DUAL_MODE", "false"  # else a guest in control could switch it for all
    if given.encoder:
        # The first is used at the start, all are in the page's menu: one alone cannot be changed.
        others = (
            ()
            if "encoder" in given.locked
            else (encoder for encoder in ENCODERS if encoder != given.encoder)
        )
        yield "SELKIES_ENCODER", ",".join((given.encoder, *others))
    for field, value, name in (
        ("framerate", given.framerate, "SELKIES_FRAMERATE"),
        ("bitrate", given.bitrate, "SELKIES_VIDEO_BITRATE"),
    ):
        if value is not None:
            yield name, f"{value}-{value}" if field in given.locked else str(value)
    if given.bitrate is not None and "bitrate" in given.locked:
        # The other mode, crf, has no bit rate that could be locked.
        yield (
            "SELKIES_RATE_CONTROL_MODE",
            "cbr",
        )
    for field in _SWITCHES:
        if field in said:
            yield VARIABLES[f"streaming.{field}"][0], "true" if said[field] else "false|locked"
    if given.clipboard:
        yield "SELKIES_ENABLE_CLIPBOARD", _CLIPBOARD[given.clipboard]
    if given.file_transfer:
        yield "SELKIES_FILE_TRANSFERS", _FILES[given.file_transfer]


def file_transfers(template: VDITemplate | None) -> frozenset[str]:
    """Directions in which files may be copied, `upload` and `download`; none for a value that is
    not known.
    """
    if template is None or generation(template.spec) != "2":
        return frozenset()
    field, both = template.spec.streaming.file_transfer, _FILES[FileTransfer.BOTH]
    of_env = {variable.name: variable.value or "" for variable in template.spec.env}
    if field:
        given = _FILES.get(field, "")
    else:
        given = of_env.get("SELKIES_FILE_TRANSFERS", both)
    return frozenset(both.split(",")) & {*given.partition("|")[0].split(",")}


def _streaming_1(spec: TemplateSpec) -> Iterator[tuple[str, str]]:
    """It knows no locks, and only WebRTC."""
    given = spec.streaming
    if given.encoder:
        yield "SELKIES_ENCODER", given.encoder
    if given.framerate is not None:
        yield "SELKIES_FRAMERATE", str(given.framerate)
    if given.bitrate is not None:
        yield "SELKIES_VIDEO_BITRATE", str(given.bitrate)
    if given.clipboard:
        yield "SELKIES_ENABLE_CLIPBOARD", _CLIPBOARD[given.clipboard]
    if given.resize is not None:
        yield "SELKIES_ENABLE_RESIZE", "true" if given.resize else "false"


def _find_streaming_problems(spec: TemplateSpec) -> Iterator[str]:
    """Values that a later version allows: after a rollback, templates may still have them."""
    given = spec.streaming
    for field, value, allowed in (
        ("display", given.display, _WAYLAND),
        ("clipboard", given.clipboard, _CLIPBOARD),
        ("fileTransfer", given.file_transfer, _FILES),
    ):
        if value is not None and value not in allowed:
            yield f"spec.streaming.{field}: {value!r} is not allowed; allowed: {', '.join(allowed)}"


def find_warnings(spec: TemplateSpec) -> Iterator[str]:
    """Variables of the template's `env` that its image ignores, in a sentence each."""
    if generation(spec) != "2":
        return
    for variable in spec.env:
        if variable.name in OBSOLETE_VARIABLES:
            yield f"{variable.name} is a setting of Selkies 1, which Selkies 2 ignores."
        if variable.name == "SELKIES_ENCODER" and (old := obsolete_encoders(variable.value or "")):
            yield (
                f"SELKIES_ENCODER names {', '.join(old)}, an encoder of Selkies 1. Selkies 2"
                " ignores it and chooses its own."
            )


def settings_ignored(template: VDITemplate, now: datetime) -> Condition | None:
    """The condition of that name; None where there is nothing to warn of."""
    message = " ".join(find_warnings(template.spec))
    if not message:
        return None
    before = template.status.conditions
    generation = template.metadata.generation
    return renew_condition(
        before, SETTINGS_IGNORED, True, "OfSelkies1", message, now, generation=generation
    )


def obsolete_encoders(value: str) -> list[str]:
    """Encoders in a value of SELKIES_ENCODER that Selkies 2 does not know."""
    named = (part.strip() for part in value.split("|", maxsplit=1)[0].split(","))
    return [one for one in named if one in OBSOLETE_ENCODERS]


def _said(spec: TemplateSpec) -> dict[str, object]:
    """The fields of `streaming` that are set, as the API names them: msgspec leaves out what is
    not.
    """
    said: dict[str, object] = msgspec.to_builtins(spec.streaming)
    return said


def missing_desktop(image: str) -> str:
    """The reason why an image contains no desktop, and one to use instead; empty for all others."""
    if not _WITHOUT_DESKTOP.search(image):
        return ""
    return (
        f"spec.image: {image!r} contains no desktop, only a part of Selkies; use"
        " `registry.example.com/vdi/desktop:1` after `docker build -t"
        " registry.example.com/vdi/desktop:1 images/desktop` and `docker push` (docs/images.md)"
    )


def health_path(spec: TemplateSpec) -> str:
    """The path on which the image reports that it is ready: the template's, else that of its
    generation of Selkies.
    """
    if spec.health_path != DEFAULT_HEALTH_PATH:
        return spec.health_path
    if spec.protocol is Protocol.WEB:
        return "/"
    if generation(spec) == "1":
        return _HEALTH_PATH_1
    return spec.health_path


def probe_path(spec: TemplateSpec, *, behind_gateway: bool) -> str:
    """The path that the kubelet requests; empty: it only connects to the port.

    Basic auth covers the health path as well, and a probe with a password in it would show it to
    readers of pods.
    """
    if generation(spec) == "1" and not behind_gateway:
        return ""
    if spec.basic_auth_secret and spec.health_path == DEFAULT_HEALTH_PATH:
        return ""
    return health_path(spec)


def takes_tokens(spec: TemplateSpec) -> bool:
    """Whether the desktop takes the gateway's token table: it then knows who comes in, in which
    role.
    """
    return generation(spec) == "2"


def refuse_view_only(template: VDITemplate | None) -> str:
    """The reason why desktops of this template cannot be shared as view only; empty where they
    can.
    """
    if template is None:
        return (
            "View only is not possible: the template of this desktop was deleted. Share it with"
            " full control."
        )
    spec = template.spec
    if takes_tokens(spec):
        return ""
    if spec.protocol is Protocol.WEB:
        what = "serves its own page (protocol Web), in which every visitor has full control"
    else:
        what = "has Selkies 1, which gives every visitor mouse and keyboard"
    return (
        f"View only is not possible: the image of this desktop {what}. Share it with full control,"
        " or use an image with Selkies 2."
    )


def find_image_problems(spec: TemplateSpec, *, behind_gateway: bool) -> Iterator[str]:
    """Problems of a template that the CRD's rules cannot know."""
    if why := missing_desktop(spec.image):
        yield why
    if spec.protocol is Protocol.WEB:
        if not behind_gateway and not spec.basic_auth_secret:
            yield (
                "spec.protocol: 'Web' needs the gateway to control access (gateway.enabled in the"
                " chart's values). Without the gateway the image must use basic auth"
                " (spec.basicAuthSecret)"
            )
        return
    yield from _find_streaming_problems(spec)
    if spec.recording and not behind_gateway:
        yield (
            "spec.recording needs the gateway, which keeps the recordings (gateway.enabled in the"
            " chart's values)"
        )
    if spec.agents and spec.agents.enabled and not behind_gateway:
        yield (
            "spec.agents needs the gateway, through which agents act (gateway.enabled in the"
            " chart's values)"
        )


def renders_on_gpu(graphics: GraphicsStatus) -> bool:
    """Whether OpenGL is drawn by a GPU."""
    return graphics.renderer != SOFTWARE


def describe_renderer(graphics: GraphicsStatus) -> str:
    """The OpenGL renderer, with the reason if it is the CPU."""
    if not renders_on_gpu(graphics):
        return "in software" + (f": {graphics.message}" if graphics.message else "")
    return graphics.renderer + (f" ({graphics.device})" if graphics.device else "")


def describe_encoder(graphics: GraphicsStatus) -> str:
    """The encoder of the stream, with the reason if it is the CPU."""
    if not graphics.encoder:
        return ""
    if graphics.hardware_encoder:
        return f"{graphics.encoder} on the GPU"
    return f"{graphics.encoder} in software" + (
        f": {graphics.encoder_message}" if graphics.encoder_message else ""
    )
