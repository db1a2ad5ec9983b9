"""The order of a desktop: what starts after what, what its end means, and how all ends."""

import time
from collections.abc import Mapping
from pathlib import Path

from process_secrets import ACCEPTS_FILE

from launcher.applications import NICED, drawing_parts
from launcher.clock import FIRST_PICTURE, GRAPHICS, SERVES, Clock
from launcher.ending import end_processes, end_with
from launcher.environment import COMPOSITOR, PICTURE_FOLDER, Environments
from launcher.graphics import GraphicsDecision
from launcher.handover import Handover
from launcher.log import log
from launcher.picture import PictureProof
from launcher.processes import Processes, command_lines
from launcher.runtime import READY_FILE, RUNTIME
from launcher.startup_scripts import StartupScripts
from launcher.x11_screen import MAX_SCREEN, set_screen

VITAL = ("Xvfb", "labwc", "dbus-daemon", "selkies")
_RESTART_SECONDS = 2.0


class Desktop:
    """The running parts.

    Args:
        stream: Selkies' settings, and all other variables of the pod.
        app: one application's command; empty for a whole desktop.
        keyboard: the command that sets the keyboard; empty for none.
        screen: the largest one.
        hidden: secrets of Selkies and vdi-agent.
        scripts: the start-up scripts' commands.
    """

    def __init__(
        self,
        stream: Mapping[str, str],
        *,
        app: list[str] | None = None,
        keyboard: list[str] | None = None,
        screen: str = MAX_SCREEN,
        hidden: Mapping[str, str] | None = None,
        scripts: dict[str, list[str]] | None = None,
        runtime: Path = RUNTIME,
    ) -> None:
        self._app, self._keyboard, self._screen = app or [], keyboard or [], screen
        self._runtime = runtime
        self.clock = Clock()
        self.environments = Environments(stream, is_whole=not app, runtime=runtime)
        self.on_wayland = self.environments.on_wayland
        self.handover = Handover(hidden or {})
        display = self.environments.stream.get("DISPLAY", "")
        self.processes = Processes(
            command_lines(runtime, display, screen, self._app),
            {*NICED, *(scripts or {})},
            self.environments,
            self.handover,
            self.clock,
        )
        self.picture = PictureProof(self.processes, self.clock, runtime)
        self.graphics = GraphicsDecision(self.processes, self.environments, self.clock, runtime)
        self.scripts = StartupScripts(scripts or {}, self.processes, self.clock, runtime)
        self._restart_at: dict[str, float] = {}
        self._is_ready = False

    @property
    def drawing(self) -> list[str]:
        """What draws on the screen."""
        return drawing_parts(is_whole=not self._app, on_wayland=self.on_wayland)

    def stop(self) -> None:
        """Have `start` or `watch` return soon."""
        self.processes.stopping = True

    def start(self) -> None:
        """Start what a picture needs, each part as soon as what it needs is there. What draws on
        the screen starts in `look`.
        """
        self.clock.mark("processes start")
        self.handover.hold_ports(self.environments.stream)
        if self.on_wayland:
            self._start_on_wayland()
        else:
            self._start_on_x11()
        self.picture.begin()
        self.graphics.start()
        self.processes.wait_for("dbus-daemon", self._runtime / "bus")
        self.clock.mark("screen and bus ready")
        for name in ("pulseaudio", "xfsettingsd"):
            self.processes.start(name)
        self.scripts.start()
        if "vdi-agent" in self.handover.sockets:
            self.processes.start("vdi-agent")
        else:
            log(
                "VDI_AGENT_TOKEN_SHA256 is not set: no one can ask whether this desktop is used,"
                " and it shows no notices"
            )

    def _start_on_x11(self) -> None:
        self.processes.start("Xvfb")
        self.processes.start("selkies")
        self.picture.start()
        self.processes.start("dbus-daemon")
        env = self.environments.applications
        number = env["DISPLAY"].removeprefix(":")
        self.processes.wait_for("Xvfb", Path(f"/tmp/.X11-unix/X{number}"))  # noqa: S108
        self.clock.mark("X server answers")
        set_screen(self.processes.running["Xvfb"].pid, self._screen, self._keyboard, env)

    def _start_on_wayland(self) -> None:
        """D-Bus comes last: what it starts, as the daemon of notices, has its environment."""
        (self._runtime / PICTURE_FOLDER).mkdir(mode=0o700)
        self.processes.start("selkies")
        self.picture.start()
        self.processes.wait_for("selkies", self._runtime / COMPOSITOR)
        self.clock.mark("compositor answers")
        if not self._app:
            self._start_labwc()
        self.processes.start("dbus-daemon")

    def _start_labwc(self) -> None:
        """Applications draw on labwc's sockets from here on."""
        noted = self._runtime / "labwc"
        self.processes.start("labwc")
        self.processes.wait_for("labwc", noted, is_ready=Path.exists)
        wayland, x11 = noted.read_text().splitlines()
        self.environments.applications |= {"WAYLAND_DISPLAY": wayland, "DISPLAY": x11}
        self.clock.mark("labwc answers")

    def watch(self) -> None:
        """Collect what ends and start it again, until `stop`. Refuses to go on without a vital
        part.
        """
        while not self.processes.stopping:
            ended = self.processes.collect()
            if ended:
                self._ended(*ended)
                continue
            self.look()
            time.sleep(0.1 if SERVES in self.clock.seen else 0.02)

    def _ended(self, name: str, code: int) -> None:
        if not name:  # an orphan of the desktop: collected, and that is all
            return
        if name == "picture":
            self.picture.ended(code)
        elif name == "graphics":
            self.graphics.ended(code)
        elif name in self.scripts.commands:
            self.scripts.ended(name, code)
        elif name in VITAL:
            end_with(name, code, f"{name} ended with status {code}: the desktop is over")
        else:
            log(f"{name} ended with status {code}; starting it again")
            self._restart_at[name] = time.monotonic() + _RESTART_SECONDS

    def look(self) -> None:
        """What is due by the clock, or because Selkies serves."""
        now = time.monotonic()
        self.picture.try_when_due(now)
        self.graphics.give_up_when_late(now)
        self.scripts.look(now)
        missing = self._missing_steps()
        if not self._is_ready and not missing and not self.scripts.hold_up_the_desktop:
            self._is_ready = True
            (self._runtime / READY_FILE).touch()
        if SERVES not in self.clock.seen:
            self._start_drawing_once_selkies_serves(missing)
        for name, due_at in list(self._restart_at.items()):
            if due_at <= now:
                del self._restart_at[name]
                self.processes.start(name)

    def _missing_steps(self) -> list[str]:
        """What Selkies waits for before it accepts connections: whoever is Ready has shown a
        picture, and its agent knows what draws.
        """
        steps = {FIRST_PICTURE: "the first picture", GRAPHICS: "what draws OpenGL"}
        return [name for step, name in steps.items() if step not in self.clock.seen]

    def _start_drawing_once_selkies_serves(self, missing: list[str]) -> None:
        """Not sooner: while Selkies loads, applications would take half of a pod's CPU, and no one
        can see them yet. A browser needs longer for its page than they do.
        """
        if not (self._runtime / ACCEPTS_FILE).exists():
            self.clock.report_waiting(*(missing or ["Selkies"]))
            return
        self.clock.mark(SERVES)
        log(self.clock.line())
        for name in self.drawing:
            self.processes.start(name)

    def end(self) -> None:
        """End every process."""
        names = ("selkies", "labwc") if self.on_wayland else ("Xvfb",)
        running = self.processes.running
        servers = {running[name].pid for name in names if name in running}
        end_processes(servers, on_wayland=self.on_wayland)
