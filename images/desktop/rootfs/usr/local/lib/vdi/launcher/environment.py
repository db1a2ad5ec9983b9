"""The variables of each part."""

from collections.abc import Mapping
from pathlib import Path

from display import NVIDIA_GLX, WAYLAND, ZINK, ask_probe, choose_display, requested_display

from launcher.log import log, refuse
from launcher.stream_settings import switched_on
from launcher.x11_screen import free_display

COMPOSITOR = (
    "wayland-1"  # the socket of Selkies' compositor in RUNTIME, which is empty when it comes
)
PICTURE_FOLDER = "picture.run"
# Zink and NVIDIA's GLX are for the applications, once prove-graphics has seen them draw. Never for
# the X server: with some releases of Mesa its start with Zink never ends. Nor does it load NVIDIA's
# EGL, which crashes it.
MESA_EGL = "/usr/share/glvnd/egl_vendor.d/50_mesa.json"
# glibc puts a second large picture into its heap, where it leaves a hole: 8 MiB of wallpaper.
_GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
_ON_XWAYLAND = ("xfdesktop",)  # on Wayland its wallpaper stays black (4.20.1)
_NOT_FOR_APPLICATIONS = ("SELKIES_", "KUBERNETES_", "VDI_")  # they have no use for them


def decide_display(value: str, runtime: Path) -> str:
    """X11 or Wayland, by SELKIES_WAYLAND; logs why. Refuses a value that means nothing."""
    requested = requested_display(value)
    if requested is None:
        refuse(
            f"SELKIES_WAYLAND={value!r} is not allowed."
            " Allowed are false (X11), true (Wayland) and auto"
        )
    display, reason = choose_display(requested, lambda: ask_probe(runtime / "gpu-probe"))
    log(f"display: {display} ({reason})")
    return display


class Environments:
    """`stream`: of Selkies, vdi-agent and what proves pictures; `applications`: of all others."""

    def __init__(self, given: Mapping[str, str], *, is_whole: bool, runtime: Path) -> None:
        self._runtime = runtime
        self.on_wayland = requested_display(given.get("SELKIES_WAYLAND", "")) == WAYLAND
        self.stream = {**given, **self._session_variables()}
        self.applications: dict[str, str] = {}
        for name, value in self.stream.items():
            if not name.startswith(_NOT_FOR_APPLICATIONS):
                self.applications[name] = value
        session_type = "wayland" if self.on_wayland else "x11"
        self.applications |= {"XDG_SESSION_TYPE": session_type, "NO_AT_BRIDGE": "1"}
        if is_whole:
            self.applications |= {"XDG_CURRENT_DESKTOP": "XFCE", "XDG_MENU_PREFIX": "xfce-"}
        if switched_on(given.get("SELKIES_PRINTING_ENABLED", "")):  # Selkies starts it there
            self.applications["CUPS_SERVER"] = f"{runtime}/selkies-cups/cups.sock"
        # Not for Selkies: its event loop would wait for devices.
        if interposer := given.get("SELKIES_INTERPOSER"):
            libraries = (interposer, given.get("LD_PRELOAD"))
            self.applications["LD_PRELOAD"] = ":".join(filter(None, libraries))
        # The panel takes whoever listens for a recording of the microphone, a mixer apart, and
        # Selkies always listens to what is played: a red microphone would tell of nothing. An
        # application's recording is still shown.
        self.stream["PULSE_PROP"] = "application.id=org.PulseAudio.pavucontrol"

    def _session_variables(self) -> dict[str, str]:
        variables = {
            "XDG_RUNTIME_DIR": str(self._runtime),
            "DBUS_SESSION_BUS_ADDRESS": f"unix:path={self._runtime}/bus",
            "PULSE_SERVER": f"unix:{self._runtime}/pulse/native",
        }
        if self.on_wayland:
            return variables | {"WAYLAND_DISPLAY": COMPOSITOR}
        return variables | {
            "XAUTHORITY": str(self._runtime / "Xauthority"),
            "DISPLAY": free_display(Path("/proc/net/unix").read_text()),
        }

    def of(self, part: str) -> dict[str, str]:
        """The variables of this part."""
        if part == "picture" and self.on_wayland:
            # Its own compositor's socket must not be beside the others: Selkies takes it for that
            # of the applications.
            return self.stream | {
                "XDG_RUNTIME_DIR": str(self._runtime / PICTURE_FOLDER),
                "WAYLAND_DISPLAY": str(self._runtime / COMPOSITOR),
            }
        if part == "vdi-agent":  # commands of software agents find the screen as applications do
            displays = {"WAYLAND_DISPLAY", "DISPLAY"} & self.applications.keys()
            return self.stream | {name: self.applications[name] for name in displays}
        if part in ("selkies", "picture", "graphics"):
            return self.stream
        if part in _ON_XWAYLAND and self.on_wayland:
            return self.applications | {"GDK_BACKEND": "x11"}
        if part == "Xvfb":
            return self._of_x_server()
        return self.applications

    def _of_x_server(self) -> dict[str, str]:
        env = {**self.applications, "__EGL_VENDOR_LIBRARY_FILENAMES": MESA_EGL, **_GIVE_BACK}
        for name in ZINK | NVIDIA_GLX:
            env.pop(name, None)
        return env
