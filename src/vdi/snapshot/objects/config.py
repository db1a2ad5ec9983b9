"""Objects that configure: ConfigMaps, Secrets, CustomResourceDefinitions. Pure."""

import json
from collections.abc import Iterator

import msgspec
import yaml

from vdi.session.credentials import read_basic_auth
from vdi.snapshot.objects.meta import REDACTED, ConditionsStatus, DataMeta, Meta, Record

# ConfigMap of Rancher's local-path provisioner, beside its Deployment.
LOCAL_PATH_CONFIG = "local-path-config"


class ConfigMap(Record):
    """local-path's script, or how GPUs are shared."""

    metadata: DataMeta
    data: dict[str, str] = msgspec.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.metadata.name == LOCAL_PATH_CONFIG:
            self.data = {key: text for key, text in self.data.items() if key == "setup"}
        else:
            self.data = {key: _gpu_config(text) for key, text in self.data.items()}


def _gpu_config(text: str) -> str:
    """The part of a device plugin's configuration that `vdi.gpu.sharing.config` reads, or why there
    is none.
    """
    try:
        config = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        return json.dumps(f"{_NOT_YAML} in line {line}: {error.problem}")
    except (yaml.YAMLError, RecursionError, ValueError):
        return json.dumps(_NOT_YAML)
    if isinstance(config, str) and config.startswith(_NOT_YAML):
        return text
    if not isinstance(config, dict):
        return json.dumps(REDACTED) if config else ""
    kept = {key: config[key] for key in ("version", "sharing") if key in config}
    if isinstance(flags := config.get("flags"), dict) and "migStrategy" in flags:
        kept["flags"] = {"migStrategy": flags["migStrategy"]}
    return json.dumps(kept, default=str)


_NOT_YAML = f"{REDACTED}, not YAML"


class Secret(Record):
    """A Secret of `basicAuthSecret`: why it cannot be used, and its last change. None of its
    values.
    """

    metadata: DataMeta
    type: str = ""
    data: dict[str, str] = msgspec.field(default_factory=dict)
    # Not fields of Kubernetes.
    problem: str | None = None
    changed: str = ""

    def __post_init__(self) -> None:
        if self.problem is None:
            self.problem = ""
            try:
                read_basic_auth(self.data)
            except ValueError as error:
                self.problem = str(error)
        self.changed = self.changed or max(
            (write.time for write in self.metadata.managed_fields), default=""
        )
        self.data = {}
        self.metadata = DataMeta(name=self.metadata.name, namespace=self.metadata.namespace)


class Limits(Record):
    type: str = ""
    max: dict[str, str] = msgspec.field(default_factory=dict)
    min: dict[str, str] = msgspec.field(default_factory=dict)


class LimitRangeSpec(Record):
    limits: tuple[Limits, ...] = ()


class LimitRange(Record):
    metadata: Meta
    spec: LimitRangeSpec = msgspec.field(default_factory=LimitRangeSpec)

    def refuses(self, message: str) -> bool:
        """Whether one of its limits is in this message of the API server."""
        for limits in self.spec.limits:
            for word, amounts in (("maximum", limits.max), ("minimum", limits.min)):
                for resource, amount in amounts.items():
                    if f"{word} {resource} usage per {limits.type} is {amount}," in message:
                        return True
        return False


class Schema(Record):
    """The names of the fields, level by level."""

    properties: dict[str, "Schema"] = msgspec.field(default_factory=dict)
    items: "Schema | None" = None
    additional_properties: "Schema | bool | None" = None
    keeps_unknown: bool = msgspec.field(name="x-kubernetes-preserve-unknown-fields", default=False)

    def missing_in(self, other: "Schema", path: str = "") -> Iterator[str]:
        """Fields of this schema that the other drops."""
        if other.keeps_unknown:
            return
        for name, inner in self.properties.items():
            here = f"{path}.{name}".lstrip(".")
            if name in other.properties:
                yield from inner.missing_in(other.properties[name], here)
            else:
                yield here
        for mine, others in (
            (self.items, other.items),
            (self.additional_properties, other.additional_properties),
        ):
            if isinstance(mine, Schema) and isinstance(others, Schema):
                yield from mine.missing_in(others, f"{path}[]")


class VersionSchema(Record):
    open_api: Schema = msgspec.field(name="openAPIV3Schema", default_factory=Schema)


class KindVersion(Record):
    name: str
    served: bool = True
    schema: VersionSchema = msgspec.field(default_factory=VersionSchema)


class KindNames(Record):
    kind: str = ""


class KindSpec(Record):
    group: str = ""
    names: KindNames = msgspec.field(default_factory=KindNames)
    versions: tuple[KindVersion, ...] = ()


class KindStatus(ConditionsStatus):
    stored_versions: tuple[str, ...] = ()


class CustomResourceDefinition(Record):
    metadata: Meta
    spec: KindSpec = msgspec.field(default_factory=KindSpec)
    status: KindStatus = msgspec.field(default_factory=KindStatus)
