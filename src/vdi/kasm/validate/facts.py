"""What a validation looks at beyond the preflight's facts. `collect_validate` fills it. Pure."""

from datetime import datetime

import msgspec

from vdi.kasm.preflight.facts import Answer, Facts
from vdi.kube.certificate import Certificate


class Release(msgspec.Struct, frozen=True):
    """A revision of a Helm release, as its Secret's labels tell it; what is in the Secret is not kept."""

    name: str
    revision: int
    status: str


class Installation(Facts, frozen=True, kw_only=True, dict=True, eq=False):
    """The namespace of a Kasm, and what is seen of it from outside."""

    namespace: str
    now: datetime
    releases: tuple[Release, ...] = ()
    certificates: dict[str, Certificate] = msgspec.field(default_factory=dict)
    """By name of the Secret."""
    secret_keys: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    """By name of the Secret that holds passwords: its keys, never what they hold."""
    hostname: str = ""
    web: Answer | None = None
    """The web UI through the real way."""
    inside: Answer | None = None
    """The web UI through the API server's service proxy: past the way in."""
