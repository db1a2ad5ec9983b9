"""kubectl for the tests of what the API server takes and refuses."""

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CRDS = Path(__file__).parents[2] / "charts/vdi/files/crds"


@dataclass(frozen=True)
class Server:
    """kubectl against a server that has the CRDs; a dry run there validates and defaults, and stores nothing."""

    kubectl: list[str]
    namespace: str

    def run(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [*self.kubectl, "--namespace", self.namespace, *words]
        return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=30, check=False)

    def create(self, kind: str, spec: dict[str, Any], name: str = "tried") -> subprocess.CompletedProcess[str]:
        given = {"apiVersion": "vdi.kasm.io/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}
        return self.run("create", "--dry-run=server", "-o", "json", "-f", "-", stdin=json.dumps(given))

    def accepted(self, kind: str, spec: dict[str, Any], name: str = "tried") -> dict[str, Any]:
        answer = self.create(kind, spec, name)
        assert answer.returncode == 0, answer.stderr
        stored: dict[str, Any] = json.loads(answer.stdout)["spec"]
        return stored

    def refused(self, kind: str, spec: dict[str, Any]) -> str:
        answer = self.create(kind, spec)
        assert answer.returncode == 1, f"accepted: {answer.stdout}"
        return answer.stderr
