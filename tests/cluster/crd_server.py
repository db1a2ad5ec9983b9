"""Dry runs of our kinds at the API server, and kubectl for how they are shown."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

CRDS = Path(__file__).parents[2] / "charts/vdi/files/crds"
API = "/apis/vdi.kasm.io/v1alpha1"


def an_object(kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> dict[str, Any]:
    return {
        "apiVersion": "vdi.kasm.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name, **metadata},
        "spec": spec,
    }


@dataclass(frozen=True)
class Server:
    """A server that has the CRDs; a dry run there validates and defaults, and stores nothing."""

    kubectl: list[str]
    namespace: str
    # Sends the administrator's certificate.
    http: httpx.Client

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [*self.kubectl, "--namespace", self.namespace, *words]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=30, check=False
        )

    def create(self, kind: str, spec: dict[str, Any], name: str = "tried") -> httpx.Response:
        """A dry run as strict as kubectl's, which itself would take a minute for the 200 objects
        that are tried.
        """
        given = an_object(kind, name, spec)
        where = f"{API}/namespaces/{self.namespace}" if kind == "VDISession" else API
        strict = {"dryRun": "All", "fieldValidation": "Strict"}
        return self.http.post(f"{where}/{kind.lower()}s", params=strict, json=given)

    def store(self, kind: str, name: str, spec: dict[str, Any], **metadata: Any) -> None:
        """Make an object that stays."""
        done = self.run(
            "create", "-f", "-", stdin=json.dumps(an_object(kind, name, spec, **metadata))
        )
        assert done.returncode == 0, done.stderr

    def patch(
        self, kind: str, name: str, change: dict[str, Any], *words: str
    ) -> subprocess.CompletedProcess[str]:
        return self.run("patch", kind, name, "--type=merge", "-p", json.dumps(change), *words)

    def get(self, kind: str, name: str, *words: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.run("get", kind, name, "-o", "json", *words).stdout)
        return found

    def accepted(self, kind: str, spec: dict[str, Any], name: str = "tried") -> dict[str, Any]:
        answer = self.create(kind, spec, name)
        assert answer.is_success, answer.text
        stored: dict[str, Any] = answer.json()["spec"]
        return stored

    def refused(self, kind: str, spec: dict[str, Any]) -> str:
        answer = self.create(kind, spec)
        assert answer.status_code in (400, 422), f"{answer.status_code}: {answer.text}"
        message: str = answer.json()["message"]
        return message
