"""helm and kubectl on a control plane of a test module's own, for tests of the chart."""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from support.kubeconfigs import write_kubeconfig
from tools.generate.chart_render import DEV_IMAGES, read_objects
from vdi.devcluster import binaries, cluster
from vdi.devcluster.progress import Progress

CHART = Path(__file__).parents[2] / "charts/vdi"
# A verb; a resource as `kubectl auth can-i` writes it; a namespace, empty for all of them.
Question = tuple[str, str, str]
_RENDERING_COMMANDS = ("template", "install", "upgrade")


@dataclass(frozen=True)
class Tools:
    """helm and kubectl against a control plane of this module's own: the CRDs must not be there
    before.
    """

    helm_binary: Path
    kubectl_binary: Path
    kubeconfig: Path
    home: Path

    def helm(self, *words: str) -> subprocess.CompletedProcess[str]:
        folders = {
            f"HELM_{kind}_HOME": str(self.home / kind.lower())
            for kind in ("CACHE", "CONFIG", "DATA")
        }
        environment = {**os.environ, **folders, "KUBECONFIG": str(self.kubeconfig)}
        command = [str(self.helm_binary), *with_images(words)]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )

    def upgrade(self, chart: Path = CHART, *words: str) -> str:
        where = ("--namespace", "vdi-system", "--create-namespace")
        done = self.helm(
            "upgrade", "--install", "vdi", str(chart), *where, "--reset-values", *words
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def render(self, *words: str) -> list[dict[str, Any]]:
        """The chart's objects as they are sent to a cluster that has the CRDs. Helm runs once for
        the same words.
        """
        return read_objects(_render(self, words))

    def named(self, kind: str, name: str, *words: str) -> dict[str, Any]:
        """One object of the rendered chart."""
        (found,) = [
            one
            for one in self.render(*words)
            if (one["kind"], one["metadata"]["name"]) == (kind, name)
        ]
        return found

    def fill_secrets(self) -> str:
        """Run the init container of the gateway that is installed, with `home` as its volume; what
        it printed.
        """
        template = "jsonpath={.spec.template.spec.initContainers[0].env}"
        variables = json.loads(
            self.kubectl("get", "deployment", "vdi-gateway", "-n", "vdi-system", "-o", template)
        )
        environment = {**os.environ, "KUBECONFIG": str(self.kubeconfig)} | {
            variable["name"]: variable["value"].replace("/etc/vdi-turn", str(self.home))
            for variable in variables
        }
        command = [sys.executable, "-m", "vdi.gateway.server_secrets"]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def try_kubectl(self, *words: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
        command = [str(self.kubectl_binary), "--kubeconfig", str(self.kubeconfig), *words]
        return subprocess.run(
            command, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )

    def kubectl(self, *words: str, stdin: str = "", check: bool = True) -> str:
        done = self.try_kubectl(*words, stdin=stdin)
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout

    def get(self, *words: str) -> Any:
        """The output of `kubectl get` as data."""
        return json.loads(self.kubectl("get", *words, "-o", "json"))

    def secret(self, name: str) -> dict[str, str]:
        """The contents of a Secret of the release."""
        data = self.get("secret", name, "--namespace", "vdi-system").get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def create_session(self, namespace: str, name: str, template: str, **spec: Any) -> None:
        """Create a session; its user has the name of the session, unless the spec names another
        one.
        """
        body: dict[str, Any] = {"apiVersion": "vdi.kasm.io/v1alpha1", "kind": "VDISession"}
        body["metadata"] = {"name": name, "namespace": namespace}
        body["spec"] = {"user": f"{name}@example.com", "template": template, **spec}
        self.kubectl("create", "-f", "-", stdin=json.dumps(body))

    def session_runs(self, namespace: str, name: str) -> bool:
        found = self.get("vdisession", name, "--namespace", namespace)
        return bool(found.get("status", {}).get("phase") == "Running")

    def pool_is_full(self, name: str) -> bool:
        """Whether a pool of one has its desktop."""
        return bool(self.get("vdipool", name).get("status", {}).get("ready") == 1)

    def kubeconfig_of(self, account: str, namespace: str) -> Path:
        """A kubeconfig with the token of a ServiceAccount."""
        token = self.kubectl("create", "token", account, "--namespace", namespace)
        return write_kubeconfig(
            self.kubeconfig, token, self.home / f"{namespace}-{account}.kubeconfig"
        )


@cache
def _render(tools: Tools, words: tuple[str, ...]) -> str:
    kinds = ("--api-versions", "vdi.kasm.io/v1alpha1/VDITemplate,vdi.kasm.io/v1alpha1/VDIPool")
    known = (*kinds, "--kube-version", "1.34.0")
    done = tools.helm("template", "vdi", str(CHART), "--namespace", "vdi-system", *known, *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


def with_images(words: Sequence[str]) -> list[str]:
    """helm's arguments; where they render our chart, with images, which values that follow
    override.
    """
    if words[0] not in _RENDERING_COMMANDS or not any(
        (Path(word) / "templates/_pods.tpl").is_file() for word in words
    ):
        return [*words]
    return [words[0], "--values", str(DEV_IMAGES), *words[1:]]


@contextmanager
def open_tools(folder: Path, name: str) -> Iterator[Tools]:
    """Tools and their control plane, taken down at the end."""
    with pytest.MonkeyPatch.context() as patch, Progress(folder) as progress:
        patch.setenv("VDI_STATE", str(folder / "state"))
        found = binaries.ensure(["helm", "kubectl"], progress=progress)
        try:
            made = cluster.up(name, control_plane_only=True, progress=progress)
            yield Tools(found["helm"], found["kubectl"], made.kubeconfig, folder)
        finally:
            cluster.down(name)


def rules_of(tools: Tools, account: str, namespace: str) -> set[tuple[str, str, str]]:
    """Everything that account may do in a namespace, but for what every account may.

    As (group, resource, verb); where a rule is for one object, the resource is `secrets/NAME`.
    """
    question = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    answer = tools.kubectl(
        "create",
        "--validate=false",
        "--as",
        account,
        "-o",
        "json",
        "-f",
        "-",
        stdin=json.dumps(question),
    )
    own = {("authorization.k8s.io", f"selfsubject{one}reviews") for one in ("access", "rules")}
    own.add(("authentication.k8s.io", "selfsubjectreviews"))
    # Since Kubernetes 1.37 every account may read them.
    of_all = {
        ("certificates.k8s.io", "clustertrustbundles", verb) for verb in ("get", "list", "watch")
    }
    rules = flat(json.loads(answer)["status"]["resourceRules"])
    return {rule for rule in rules - of_all if rule[:2] not in own}


def allowed_of(tools: Tools, account: str, questions: Iterable[Question]) -> list[Question]:
    """The questions that the authorizer answers with yes; all are asked by one kubectl."""
    asked = list(questions)
    reviews = [
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": _attributes(*question)},
        }
        for question in asked
    ]
    documents = "\n---\n".join(json.dumps(review) for review in reviews)
    template = 'jsonpath={.status.allowed}{"\\n"}'
    answers = tools.kubectl(
        "create", "--validate=false", "--as", account, "-o", template, "-f", "-", stdin=documents
    )
    return [
        question
        for question, answer in zip(asked, answers.split(), strict=True)
        if answer == "true"
    ]


def _attributes(verb: str, resource: str, namespace: str) -> dict[str, str]:
    kind, _, subresource = resource.partition(" --subresource=")
    kind, _, name = kind.partition("/")
    kind, _, group = kind.partition(".")
    what = {
        "verb": verb,
        "group": group,
        "resource": kind,
        "subresource": subresource,
        "name": name,
    }
    return {**what, "namespace": namespace}


def flat(rules: Iterable[dict[str, Any]]) -> set[tuple[str, str, str]]:
    """Rules as sets of (group, resource, verb)."""
    return {
        (group, f"{resource}/{name}" if name else resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames") or [""]
        for verb in rule["verbs"]
    }
