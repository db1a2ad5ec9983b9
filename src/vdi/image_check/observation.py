"""What was observed of one start of an image. Data: `run` fills it in, `judge` reads it."""

import msgspec

from vdi.session.observed import Terminated


class HttpResult(msgspec.Struct, frozen=True):
    """What a request got."""

    status: int = 0
    """HTTP status; 0: there was no answer."""
    problem: str = ""
    """Why there was none."""


class Inside(msgspec.Struct, frozen=True):
    """What a shell in the image found, with the user and the home of the desktop."""

    uid: str = ""
    gid: str = ""
    home: str = ""
    """$HOME."""
    writable: bool = False


class Stopped(msgspec.Struct, frozen=True):
    """The end of the container after SIGTERM."""

    exit_code: int
    seconds: float


class Stream(msgspec.Struct, frozen=True):
    """What a client of Selkies' WebSocket received."""

    has_picture: bool = False
    first_picture_seconds: float | None = None
    """From connecting; None: it was not measured."""
    input_ms: float | None = None
    """Median from a key to the picture that shows it."""
    problem: str = ""
    """Why there is no picture, or none that follows keys."""


class Observation(msgspec.Struct, kw_only=True):
    """One check. An empty field was not observed; the field with `problem` or `unchecked` says why."""

    subject: str
    """The image or template as findings name it: `image/NAME` or `vditemplate/NAME`."""
    image: str
    generation: str
    """Of Selkies: "1" or "2"; empty: the image serves a page of its own."""
    port: int = 8080
    scheme: str = "HTTP"
    health_path: str = "/api/health"
    probe_path: str = ""
    """What the kubelet requests; empty: it only connects to the port."""
    run_as_user: int = 1000
    mount_path: str = ""
    """Where the home is mounted; empty: it has no home."""
    signs_in: bool = False
    """The gateway signs in with basic auth (`basicAuthSecret`)."""
    uses_webrtc: bool = False
    grace_seconds: int = 0

    unusable: str = ""
    """Why the image cannot be a desktop, known without a start."""
    refused: str = ""
    """The API server's message about the pod that it refused."""
    unplaced: str = ""
    """Why the pod got no node."""
    node: str = ""
    pull_failed: str = ""
    pulled: str = ""
    """The kubelet's message after it fetched the image."""
    start_failed: str = ""
    """Why the container was not created or started."""
    ended: Terminated | None = None
    """The container ended by itself."""
    ready_seconds: float | None = None
    """From the container's start to its readiness."""
    waited_seconds: float = 0.0
    not_ready: str = ""
    """Why it was not ready in time."""
    probe_refused: bool = False
    """It answers its health check, but not as the template says."""
    probe_message: str = ""
    """The kubelet's last message about a failed probe."""

    inside: Inside | None = None
    inside_unchecked: str = ""
    requests_unchecked: str = ""
    """Why no request was sent to the container."""
    health: HttpResult | None = None
    signed_in: HttpResult | None = None
    """The same with user name and password of the Secret."""
    sign_in_unchecked: str = ""
    token_table: HttpResult | None = None
    """POST /api/tokens."""
    with_token: HttpResult | None = None
    without_token: HttpResult | None = None
    """GET /api/sessions with a token of that table, and without one."""
    agent: HttpResult | None = None
    agent_without_token: HttpResult | None = None
    stream: Stream | None = None
    stream_unchecked: str = ""
    stopped: Stopped | None = None
    stopped_unchecked: str = ""
    size_bytes: int | None = None
    size_unchecked: str = ""

    @property
    def is_running(self) -> bool:
        """Whether the container runs."""
        failed = self.unusable or self.refused or self.unplaced or self.pull_failed or self.start_failed
        return not failed and self.ended is None
