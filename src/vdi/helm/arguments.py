"""Helm's arguments, by major version, and the place of a release. Pure.

Nothing that may be secret is among them, but for what somebody has typed as `--set`: values go by
file or by stdin.
"""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from vdi.helm.run import Helm


@dataclass(frozen=True, slots=True)
class Place:
    """Cluster and namespace of a release. Without kubeconfig and context, Helm finds the cluster as
    we do.
    """

    namespace: str
    kubeconfig: Path | None = None
    context: str | None = None

    @property
    def arguments(self) -> list[str]:
        return self._options("--kube-context")

    @property
    def options(self) -> str:
        """Options for a suggested command of kubectl, or of ours, that choose the same namespace
        and cluster.
        """
        return shlex.join(self._options("--context"))

    def _options(self, context: str) -> list[str]:
        options = ["--namespace", self.namespace]
        options += ["--kubeconfig", str(self.kubeconfig)] if self.kubeconfig else []
        return options + ([context, self.context] if self.context else [])

    @property
    def helm_options(self) -> str:
        """The same for one of helm."""
        return shlex.join(self.arguments)


@dataclass(frozen=True, slots=True)
class Values:
    """Values of a chart, the last winning: `kept`, then the files, then `typed`, then `sets`."""

    # Given to helm by stdin: no file, no argument.
    kept: Mapping[str, Any] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    # As they were typed: `key=value`.
    sets: tuple[str, ...] = ()
    # Path of a value -> the value with its type: `traefik.tlsSecret` -> `"123"` stays text.
    typed: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arguments(self) -> list[str]:
        options = ["--values", "-"] if self.kept else []
        for file in self.files:
            options += ["--values", str(file)]
        for path, value in self.typed.items():
            options += ["--set-json", f"{path}={json.dumps(value)}"]
        for assignment in self.sets:
            options += ["--set", assignment]
        return options

    @property
    def stdin(self) -> bytes | None:
        """Input of `--values -`: JSON, which is YAML."""
        import msgspec

        if self.kept:
            return msgspec.json.encode(self.kept)
        return None


@dataclass(frozen=True, slots=True)
class Change:
    """Release, chart and values of an install or upgrade."""

    release: str
    # A folder, or whatever helm takes as a chart.
    chart: str
    place: Place
    values: Values = Values()
    # Further arguments, such as `--version 1.2.3`.
    more: tuple[str, ...] = ()


def upgrade(
    helm: Helm, change: Change, *, seconds: float, undo_on_failure: bool = True
) -> list[str]:
    """Install or upgrade with exactly these values, wait until all is ready, and undo it where it
    fails.
    """
    command = [
        "upgrade",
        "--install",
        change.release,
        change.chart,
        *change.place.arguments,
        "--create-namespace",
    ]
    command += ["--reset-values", *change.values.arguments, *change.more, *_waiting(seconds)]
    undo = "--atomic" if helm.major == 3 else "--rollback-on-failure"
    return [*command, undo] if undo_on_failure else command


def uninstall(release: str, place: Place, *, seconds: float) -> list[str]:
    """Remove the release and its history; waits until its objects are gone."""
    return ["uninstall", release, *place.arguments, *_waiting(seconds)]


def template(
    change: Change,
    *,
    kubernetes: str,
    apis: tuple[str, ...] = (),
    is_upgrade: bool = False,
    lookups: bool = True,
) -> list[str]:
    """Render, hooks included. With `lookups` the cluster answers the chart's lookups.

    `apis` are taken to be there beside Kubernetes' own; Helm 4 believes them only without
    `lookups`.
    """
    command = [
        "template",
        change.release,
        change.chart,
        *change.place.arguments,
        *change.values.arguments,
        *change.more,
    ]
    command += [f"--dry-run={'server' if lookups else 'client'}", "--kube-version", kubernetes]
    for api in apis:
        command += ["--api-versions", api]
    if is_upgrade:
        return [*command, "--is-upgrade"]
    return command


def take_back_fields(helm: Helm, apply_method: str) -> tuple[str, ...]:
    """Overwrite what was changed by hand, as Helm 3 always does: Helm 4 with server-side apply
    gives up otherwise.
    """
    if helm.major == 4 and apply_method == "ssa":
        return ("--force-conflicts",)
    return ()


def _waiting(seconds: float) -> list[str]:
    return ["--wait", "--timeout", f"{max(1, round(seconds))}s"]
