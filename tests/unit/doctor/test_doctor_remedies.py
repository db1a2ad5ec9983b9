"""Every finding says in a short sentence what helps, and its commands can be pasted unchanged."""

import copy
import re
import shlex
import subprocess
from functools import cache
from typing import Any

import pytest

from unit.doctor.doctor_builders import Cluster
from unit.doctor.doctor_faults import FAULTS
from unit.doctor.doctor_findings import every_finding

# Programs that an administrator has on their machine, or on a node.
PROGRAMS = {
    *(
        "kubectl",
        "helm",
        "vdi",
        "systemctl",
        "journalctl",
        "timedatectl",
        "df",
        "k3s",
        "crictl",
        "chown",
    ),
    *("nvidia-smi", "dmesg"),
}
VERBS = {
    *(
        "get",
        "describe",
        "delete",
        "edit",
        "patch",
        "scale",
        "label",
        "annotate",
        "taint",
        "uncordon",
        "set",
    ),
    *("create",),
}
KINDS = {
    *(
        "pod",
        "pods",
        "node",
        "nodes",
        "namespace",
        "service",
        "services",
        "secret",
        "secrets",
        "configmap",
    ),
    *(
        "configmaps",
        "deployment",
        "deployments",
        "daemonset",
        "statefulset",
        "statefulsets",
        "job",
        "pvc",
        "pv",
    ),
    *(
        "storageclass",
        "persistentvolumeclaim",
        "resourcequota",
        "limitrange",
        "serviceaccount",
        "networkpolicy",
    ),
    *(
        "lease",
        "role",
        "clusterrole",
        "vdisession",
        "vdisessions",
        "vditemplate",
        "vditemplates",
        "ingressroute",
    ),
    *(
        "ingressroutes",
        "middlewares.traefik.io",
        "clusterpolicies.nvidia.com",
        "clusterpolicy",
        "events",
    ),
    *(
        "replicaset",
        "validatingwebhookconfigurations",
        "mutatingwebhookconfigurations",
        "rolebinding",
    ),
    *("clusterrolebinding", "vdipool", "certificate", "ingress", "endpointslices"),
    "tlsoption",
}
PLACEHOLDER = re.compile(r"<[a-z]|\.\.\.|\b(?!TLS|CA|CPU|GPU|API|OK)[A-Z]{4,}\b")
# Words of a sentence that somebody reads at night.
LONGEST = 20


def check_sentences(text: str) -> None:
    """Each is short, without what others said, which is quoted after a colon or in parentheses."""
    own = re.sub(r"\([^)]*\)|`[^`]*`|'[^']*'|\"[^\"]*\"", "X", text)
    for sentence in re.split(r"(?<=[.;:])\s+", own):
        assert len(sentence.split()) <= LONGEST, sentence


def test_a_remedy_is_a_short_sentence_and_commands() -> None:
    for finding in every_finding():
        if finding.code == "not_readable":
            continue  # its words are the collector's
        sentence = finding.remedy.sentence
        assert sentence, finding.key
        assert sentence[0].isupper() or sentence.startswith("vdi"), sentence
        assert sentence.endswith((".", ":")), sentence
        check_sentences(sentence)


def test_a_message_is_read_in_short_sentences() -> None:
    for finding in every_finding():
        if finding.code.startswith("gpu_") and finding.code not in (
            "gpu_insufficient",
            "gpu_runtime_class_unset",
        ):
            continue  # the words of `vdi gpu verify`
        check_sentences(finding.message)


def test_commands_can_be_pasted_unchanged() -> None:
    for finding in every_finding():
        for command in finding.remedy.commands:
            check_command(command)


_EDIT = "kubectl edit vditemplate ubuntu-desktop"
_RESTART = "vdi session restart alice-0 -n vdi-sessions"
_PULL = "crictl pull registry.example.com/desktop:1"


@pytest.mark.parametrize(
    ("message", "words", "commands"),
    [
        (
            "desktop:1: not found",
            "name or tag in spec.image of template `ubuntu-desktop`",
            (_EDIT, _RESTART),
        ),
        (
            "pull access denied, repository does not exist or may require authorization",
            "or its pull secret",
            (_EDIT, _RESTART),
        ),
        (
            "lookup registry.example.com: no such host",
            "fix DNS on the node node-1",
            (_EDIT, _RESTART, _PULL),
        ),
        ("toomanyrequests: rate limit", "Wait until", (_EDIT, _RESTART)),
        (
            "dial tcp 10.1.2.3:443: connection refused",
            "On the node node-1, fix its access",
            (_PULL,),
        ),
        ("no space left on device", "On the node node-1, fix what the message names", (_PULL,)),
    ],
)
def test_an_image_is_pulled_on_a_node_only_where_that_can_help(
    message: str, words: str, commands: tuple[str, ...]
) -> None:
    cluster = Cluster()
    cluster.waits("ErrImagePull", message)
    (finding,) = cluster.findings()
    assert words in finding.remedy.sentence
    assert finding.remedy.commands == commands
    check_sentences(finding.remedy.sentence)
    for command in commands:
        check_command(command)


def test_x509_on_k3s_says_where_the_ca_goes() -> None:
    cluster = Cluster()
    cluster.one("nodes")["status"]["nodeInfo"]["kubeletVersion"] = "v1.34.9+k3s1"
    cluster.waits("ErrImagePull", "x509: unknown authority")
    (finding,) = cluster.findings()
    assert "/etc/rancher/k3s/registry-ca.crt" in finding.remedy.sentence
    assert "`registry.example.com`, tls, ca_file" in finding.remedy.sentence
    assert finding.remedy.commands == ("systemctl restart k3s-agent", f"k3s {_PULL}")


def test_an_image_without_a_registry_is_imported() -> None:
    cluster = Cluster()
    cluster.waits("ErrImagePull", "connection refused")
    cluster.pod["status"]["containerStatuses"][0]["image"] = "localhost/vdi/desktpo:dev"
    (finding,) = cluster.findings()
    assert "import the image on the node node-1" in finding.remedy.sentence
    assert finding.remedy.commands == (_EDIT, _RESTART)


@cache
def check_command(command: str) -> None:
    subprocess.run(["bash", "-n", "-c", command], check=True, timeout=10)
    words = shlex.split(command)
    assert words[0] in PROGRAMS, command
    assert not PLACEHOLDER.search(re.sub(r"'[^']*'", "", command)), command
    if words[0] == "kubectl":
        rest = without_options(words[1:])
        assert rest, command
        if (
            rest[0] in VERBS
            and "--raw" not in words
            and rest[0] not in ("uncordon", "set", "create")
        ):
            kinds = rest[1].partition("/")[0].split(",")
            assert set(kinds) <= KINDS, command
            assert (
                rest[0] in ("get", "describe")
                or len(rest) > 2
                or "/" in rest[1]
                or "--all" in words
            ), command


def without_options(words: list[str]) -> list[str]:
    rest, skip = [], False
    for word in words:
        if skip:
            skip = False
        elif word in (
            "--namespace",
            "-n",
            "--as",
            "--type",
            "--patch",
            "-l",
            "-o",
            "--output",
            "--container",
            "-c",
        ):
            skip = True
        elif not word.startswith("-"):
            rest.append(word)
    return rest


def _waits_for_a_gpu(*nodes: tuple[str, str, dict[str, Any]]) -> str:
    """The commands for a desktop of 8 GPUs, on nodes of (name, number of GPUs, spec); 4 of node
    `gpu` are taken.
    """
    cluster = FAULTS.broken("gpus_busy_and_operator_silent")
    next(pod for pod in cluster.objects["pods"] if pod["metadata"]["name"] == "job")["spec"][
        "nodeName"
    ] = "gpu"
    first = cluster.one("nodes")
    cluster.objects["nodes"] = []
    for name, gpus, spec in nodes:
        node = cluster.add(
            "nodes",
            first["metadata"] | {"name": name},
            spec=spec,
            status=copy.deepcopy(first["status"]),
        )
        node["status"]["allocatable"]["nvidia.com/gpu"] = gpus
    (finding,) = [
        one for one in cluster.findings() if one.code in ("gpu_insufficient", "room_insufficient")
    ]
    return "\n".join(finding.remedy.commands)


_CONTROL_PLANE = {
    "taints": [{"key": "node-role.kubernetes.io/control-plane", "effect": "NoSchedule"}]
}
_DEDICATED = {"taints": [{"key": "dedicated", "effect": "NoSchedule"}]}


@pytest.mark.parametrize(
    ("nodes", "expected"),
    [
        ([("gpu", "8", {}), ("cp", "0", _CONTROL_PLANE)], "vdi session ls"),
        ([("gpu", "8", {}), ("other", "8", _DEDICATED)], "vdi session ls"),
        ([("gpu", "8", {}), ("cpu", "0", {"unschedulable": True})], "vdi session ls"),
        ([("gpu", "8", {}), ("more", "8", {"unschedulable": True})], "kubectl uncordon more"),
        (
            [("gpu", "8", _DEDICATED), ("cp", "0", _CONTROL_PLANE)],
            "kubectl taint nodes gpu dedicated:NoSchedule-",
        ),
    ],
    ids=[
        "control plane",
        "dedicated",
        "cordoned without GPUs",
        "cordoned with GPUs",
        "all with GPUs are tainted",
    ],
)
def test_only_nodes_that_could_take_the_desktop_are_opened(
    nodes: list[tuple[str, str, dict[str, Any]]], expected: str
) -> None:
    commands = _waits_for_a_gpu(*nodes)
    assert expected in commands
    assert ("taint" in commands, "uncordon" in commands) == (
        "taint" in expected,
        "uncordon" in expected,
    )
