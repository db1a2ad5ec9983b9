"""One named configuration of NVIDIA's device plugin: written for us, read whoever wrote it. Pure.

The format is the plugin's (`version: v1`); each check says what the plugin refuses and what it
ignores.
"""

from dataclasses import dataclass
from typing import Any

import yaml

RESOURCE = "nvidia.com/gpu"
# What the plugin advertises in the place of `RESOURCE` with renameByDefault.
RENAMED = "nvidia.com/gpu.shared"

TIME_SLICING = "time-slicing"
MPS = "mps"
NONE = "none"
MIG_STRATEGIES = ("none", "single", "mixed")


class BadConfigError(ValueError):
    """Raised when a configuration cannot be what the device plugin runs with; the message is a
    sentence without dot.
    """


@dataclass(frozen=True, slots=True)
class Sharing:
    """The sharing of a node's GPUs: one method and one number for all of them."""

    # How many pods may have one GPU; 1 is not shared.
    replicas: int = 8
    rename: bool = False
    fail_requests_greater_than_one: bool = False
    mig_strategy: str = "none"
    strategy: str = TIME_SLICING

    @property
    def resource(self) -> str:
        """The resource that nodes with this configuration advertise."""
        if self.rename and self.replicas > 1:
            return RENAMED
        return RESOURCE

    @property
    def method(self) -> str:
        """The value of the label nvidia.com/gpu.sharing-strategy that follows from it."""
        return self.strategy if self.replicas > 1 else NONE


NOT_SHARED = Sharing(replicas=1)


def render_config(sharing: Sharing) -> str:
    """The text of the configuration. One replica is written without `sharing`: newer plugins refuse
    less than two.
    """
    config: dict[str, Any] = {"version": "v1", "flags": {"migStrategy": sharing.mig_strategy}}
    if sharing.replicas > 1:
        config["sharing"] = {
            "timeSlicing": {
                "renameByDefault": sharing.rename,
                "failRequestsGreaterThanOne": sharing.fail_requests_greater_than_one,
                "resources": [{"name": RESOURCE, "replicas": sharing.replicas}],
            }
        }
    return yaml.safe_dump(config, sort_keys=False).rstrip("\n")


def read_config(text: str) -> Sharing:
    """The effect of a configuration on nvidia.com/gpu. Raises BadConfigError."""
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BadConfigError(f"it is not YAML: {' '.join(str(error).split())}") from error
    config = _mapping(config or {}, "the configuration")
    version = config.get("version", "v1")
    if version != "v1":
        raise BadConfigError(f"version is {version!r}; allowed: v1")
    flags = _mapping(config.get("flags") or {}, "flags")
    mig = flags.get("migStrategy") or "none"
    if mig not in MIG_STRATEGIES:
        raise BadConfigError(f"flags.migStrategy is {mig!r}; allowed: {', '.join(MIG_STRATEGIES)}")
    sharing = _mapping(config.get("sharing") or {}, "sharing")
    slicing, mps = sharing.get("timeSlicing"), sharing.get("mps")
    if slicing and mps:
        # The plugin takes MPS then, and says nothing (its api/config/v1/sharing.go).
        raise BadConfigError("sharing has both timeSlicing and mps; allowed: one of them")
    if mps:
        return _shared(_mapping(mps, "sharing.mps"), mig, MPS)
    if slicing:
        return _shared(_mapping(slicing, "sharing.timeSlicing"), mig, TIME_SLICING)
    return Sharing(replicas=1, mig_strategy=mig)


def _mapping(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise BadConfigError(f"{field} is {value!r}; allowed: fields with values")
    return value


def _shared(section: dict[str, Any], mig: str, strategy: str) -> Sharing:
    if strategy == TIME_SLICING:
        where = "sharing.timeSlicing"
    else:
        where = "sharing.mps"
    entries = section.get("resources")
    if not isinstance(entries, list) or not entries:
        raise BadConfigError(
            f"{where}.resources is {entries!r}; allowed: a list with at least one resource"
        )
    replicas = 1
    for number, entry in enumerate(entries):
        field = f"{where}.resources[{number}]"
        fields = _mapping(entry, field)
        count = fields.get("replicas")
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise BadConfigError(
                f"{field}.replicas is {count!r}; allowed: a whole number from 2 up"
            )
        if fields.get("name") == RESOURCE:
            replicas = count
    return Sharing(
        replicas=replicas,
        rename=section.get("renameByDefault") is True,
        fail_requests_greater_than_one=section.get("failRequestsGreaterThanOne") is True,
        mig_strategy=mig,
        strategy=strategy,
    )
