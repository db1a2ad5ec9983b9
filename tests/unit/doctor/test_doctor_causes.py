"""The exact cause, and commands that work where they are pasted."""

import pytest

from unit.doctor.doctor_builders import BEGAN, JUST_NOW, SPACE, Cluster, Object, deployment
from unit.doctor.doctor_faults import FAULTS, differs, pending_claim
from unit.doctor.doctor_gateways import GATEWAY_FAULTS
from unit.doctor.doctor_gpus import GPU_FAULTS
from vdi.doctor.checks.run import run_checks
from vdi.findings.model import Finding, Severity, roots
from vdi.snapshot.redact import redact

KUBECTL = "kubectl --namespace vdi-sessions"
RESTART = "vdi session restart alice-0 -n vdi-sessions"
_LIBRARY = "x: error while loading shared libraries: libX.so.6: cannot open"
EDIT = "kubectl edit vditemplate ubuntu-desktop"


def root(cluster: Cluster) -> Finding:
    (finding,) = roots(cluster.findings())
    return finding


def given_up(log: str) -> Cluster:
    """A desktop that crashed until the operator deleted its pod."""
    cluster = Cluster()
    failures: Object = {
        "count": 6,
        "reason": "CrashLoop",
        "message": "It crashed.",
        "time": BEGAN,
        "generation": 1,
    }
    cluster.without_pod(
        "CrashLoop", "It crashed.", phase="Failed", failures=failures | {"log": log}
    )
    return cluster


@pytest.mark.parametrize("waiting", ["RunContainerError", "CrashLoopBackOff"])
def test_exec_format_error_names_the_architecture(waiting: str) -> None:
    cluster = Cluster()
    cluster.one("nodes")["metadata"]["labels"]["kubernetes.io/arch"] = "arm64"
    words = "exec /usr/bin/vdi-desktop: exec format error"
    cluster.not_ready(
        waiting={"reason": waiting, "message": words}, last={"message": words}, restarts=2
    )
    finding = root(cluster)
    assert finding.code == "desktop_cannot_start"
    assert "another architecture than the node's (arm64)" in finding.message
    assert finding.remedy.commands[0] == "kubectl get nodes --label-columns kubernetes.io/arch"


def test_gpus_in_resource_slices_are_no_missing_driver() -> None:
    cluster = GPU_FAULTS.broken("no_gpu_anywhere")
    cluster.objects["resourceslices"] = [
        {"metadata": {"name": "a"}, "spec": {"driver": "gpu.nvidia.com", "nodeName": "node-1"}}
    ]
    finding = root(cluster)
    assert "only ResourceSlices: node-1" in finding.message
    assert "driver, " not in finding.remedy.sentence
    assert finding.remedy.sentence.startswith("Run NVIDIA's device plugin")


def test_registry_without_tls_is_named_as_that() -> None:
    cluster = Cluster()
    cluster.waits(
        "ErrImagePull", "failed to do request: http: server gave HTTP response to HTTPS client"
    )
    finding = root(cluster)
    assert "speaks plain HTTP" in finding.message
    assert "http://registry.example.com as its endpoint" in finding.remedy.sentence


def test_value_that_cannot_be_used_is_to_be_corrected() -> None:
    cluster = Cluster()
    cluster.without_pod("InvalidSession", "spec.timeZone: 'Mars/Olympus' is not a known time zone.")
    finding = root(cluster)
    assert finding.remedy.sentence == "Correct the value that the message names."


def test_slow_start_says_that_its_home_waits() -> None:
    cluster = Cluster()
    pending_claim(cluster)["metadata"]["creationTimestamp"] = JUST_NOW
    cluster.pod["status"]["conditions"][0]["message"] = ""
    cluster.pod["metadata"]["creationTimestamp"] = "2026-11-20T11:59:00Z"
    findings = [finding for finding in cluster.findings() if finding.code == "start_slow"]
    assert all("the wait for the volume of its home" in finding.message for finding in findings)


@pytest.mark.parametrize(
    ("message", "refused"),
    [("401 Unauthorized", True), ("pull access denied, repository does not exist", False)],
)
def test_401_with_a_pull_secret_is_about_that_secret(message: str, refused: bool) -> None:
    cluster = Cluster()
    cluster.template["imagePullSecrets"] = [{"name": "regcred"}]
    cluster.not_ready(
        waiting={"reason": "ErrImagePull", "message": f"failed to authorize: {message}"}
    )
    finding = root(cluster)
    words = "The registry registry.example.com refuses the credentials of the Secret regcred."
    assert (finding.message == words) == refused
    create = f"{KUBECTL} create secret generic regcred --type=kubernetes.io/dockerconfigjson"
    assert (
        finding.remedy.commands[0] == "docker --config pull-secret login registry.example.com"
    ) == refused
    assert finding.remedy.commands[1].startswith(create) == refused


def test_all_pull_secrets_are_named() -> None:
    cluster = Cluster()
    cluster.template["imagePullSecrets"] = [{"name": "one"}, {"name": "two"}]
    cluster.waits("ErrImagePull", "failed to authorize: 401 Unauthorized")
    finding = root(cluster)
    assert finding.message.endswith("refuses the credentials of the Secrets one, two.")
    assert [command.split()[6] for command in finding.remedy.commands[1:-1]] == ["one", "two"]


@pytest.mark.parametrize(
    ("version", "commands"), [("v1.36.3", ()), ("v1.36.3+k3s1", ("systemctl restart k3s",))]
)
def test_k3s_is_restarted_only_where_it_runs(version: str, commands: tuple[str, ...]) -> None:
    cluster = GATEWAY_FAULTS.broken("k3s_up_for_a_year")
    cluster.one("nodes")["status"]["nodeInfo"]["kubeletVersion"] = version
    assert root(cluster).remedy.commands == commands


@pytest.mark.parametrize(
    ("crashes", "command"),
    [(False, f"{KUBECTL} exec alice-0 -- df {{}}"), (True, "df {} '/srv/a home'")],
)
def test_full_disk_may_lack_inodes(crashes: bool, command: str) -> None:
    """In a desktop that crashes no command runs."""
    cluster = Cluster()
    cluster.one("persistentvolumes")["spec"] = {"hostPath": {"path": "/srv/a home"}}
    if crashes:
        cluster.crashes()
    cluster.say("OSError: [Errno 28] No space left on device")
    assert root(cluster).remedy.commands == (command.format("-h"), command.format("-i"), RESTART)


def test_value_that_selkies_rejects_is_named() -> None:
    finding = root(FAULTS.broken("encoder_unknown"))
    assert "the value `h266enc` of its setting `encoder`" in finding.message
    assert "SELKIES_ENCODER" in finding.remedy.sentence
    assert finding.remedy.commands == (EDIT, RESTART)


@pytest.mark.parametrize(
    "line",
    [
        "Error: Invalid value for '--size': 'x' is not a number",
        "xterm: Invalid value 'x' for '--geometry'",
    ],
)
def test_complaints_of_other_programs_are_no_setting(line: str) -> None:
    cluster = Cluster()
    cluster.say(line)
    assert cluster.roots() == []


def test_rejected_encoder_of_selkies_1_is_one_cause() -> None:
    cluster = FAULTS.broken("encoder_unknown")
    cluster.template["env"] = [{"name": "SELKIES_ENCODER", "value": "nvh264enc"}]
    assert cluster.roots() == ["encoder_obsolete"]


def test_older_default_classes_lose_the_annotation() -> None:
    finding = root(FAULTS.broken("two_default_classes"))
    assert finding.severity is Severity.WARNING
    shown, unset = finding.remedy.commands
    assert shown == "kubectl get storageclass"
    assert "local-path" in unset
    assert "longhorn" not in unset


@pytest.mark.parametrize(("written", "found"), [(JUST_NOW, ["secret_newer"]), (BEGAN, [])])
def test_secret_newer_than_the_desktop_asks_for_a_restart(written: str, found: list[str]) -> None:
    cluster = Cluster()
    reference = {
        "name": "PASSWORD",
        "valueFrom": {"secretKeyRef": {"name": "login", "key": "password"}},
    }
    cluster.pod["spec"]["containers"][0]["env"].append(reference)
    meta = {
        "name": "login",
        "namespace": SPACE,
        "managedFields": [{"time": written, "fieldsV1": {"f:data": {}}}],
    }
    cluster.objects["secrets"].append({"metadata": meta, "data": {}})
    assert cluster.roots() == found


@pytest.mark.parametrize(
    ("words", "sentence", "command"),
    [
        ("FATAL: sorry, too many clients already", "max_connections", "logs"),
        ("password authentication failed for user vdi", "newer than the pod", "rollout restart"),
        (
            "cannot resolve its host name: [Errno -2] Name or service not known",
            "the cluster's DNS",
            "logs",
        ),
        ("cannot execute UPDATE in a read-only transaction", "Name the primary", "logs"),
        ("You can't write against a read only replica.", "Name the primary", "logs"),
        ("command not allowed when used memory > 'maxmemory'.", "maxmemory", "logs"),
        ("could not extend file base/1: No space left on device", "Free the disk", "logs"),
    ],
)
def test_database_troubles_name_their_cure(words: str, sentence: str, command: str) -> None:
    cluster = GATEWAY_FAULTS.broken("database_away")
    for lines in cluster.logs.values():
        lines[:] = [f'level=WARNING msg="trouble: database: {words}"']
    finding = next(one for one in cluster.findings() if one.code == "database_unreachable")
    assert sentence in finding.remedy.sentence
    assert command in finding.remedy.commands[0]


def reads_client_secret(cluster: Cluster) -> None:
    reference = {"secretKeyRef": {"name": "vdi-oidc", "key": "clientSecret"}}
    (container,) = cluster.one("deployments", "vdi-gateway")["spec"]["template"]["spec"][
        "containers"
    ]
    container["env"].append({"name": "VDI_OIDC_CLIENT_SECRET", "valueFrom": reference})


@pytest.mark.parametrize("error", ["401 unauthorized_client", "400 invalid_client"])
def test_refused_client_secret_is_named_with_its_key(error: str) -> None:
    cluster = GATEWAY_FAULTS.broken("provider_away")
    reads_client_secret(cluster)
    cluster.logs["kasm/vdi-gateway-1"] = [
        f'msg="trouble: single sign-on: https://id: POST https://id/token: {error}"'
    ]
    finding = root(cluster)
    assert finding.code == "oidc_unreachable"
    assert "Correct the key clientSecret of Secret vdi-oidc" in finding.remedy.sentence


@pytest.mark.parametrize(
    "message",
    ['secret "vdi-oidc" not found', "couldn't find key clientSecret in Secret kasm/vdi-oidc"],
)
def test_missing_client_secret_is_named_with_its_key(message: str) -> None:
    cluster = GATEWAY_FAULTS.broken("gateway_set_wrong")
    reads_client_secret(cluster)
    cluster.logs.clear()
    (status,) = cluster.one("pods", "vdi-gateway-1")["status"]["containerStatuses"]
    status["state"] = {"waiting": {"reason": "CreateContainerConfigError", "message": message}}
    finding = root(cluster)
    assert finding.code == "gateway_down"
    assert "Write the key clientSecret into the Secret vdi-oidc" in finding.remedy.sentence
    assert finding.remedy.commands == ("kubectl --namespace kasm describe secret vdi-oidc",)


@pytest.mark.parametrize(
    ("replicas", "remedy"), [(0, "scale deployment vdi-redis"), (1, "No pod of deployment")]
)
def test_redis_of_the_chart_without_a_pod_is_named(replicas: int, remedy: str) -> None:
    cluster = GATEWAY_FAULTS.broken("redis_away")
    redis = deployment("vdi-redis", "kasm", {}, {"containers": [{"name": "redis"}]})
    redis["metadata"]["labels"] = {"app.kubernetes.io/name": "redis"}
    redis["spec"]["replicas"], redis["status"] = replicas, {}
    cluster.objects["deployments"].append(redis)
    finding = next(one for one in cluster.findings() if one.code == "redis_unreachable")
    assert remedy in finding.remedy.text


def test_operator_without_dns_says_so() -> None:
    cluster = FAULTS.broken("operator_not_ready")
    lost = (
        "no response from the API server https://api: cannot resolve its host name: [Errno -3] Try"
        " again"
    )
    cluster.logs["kasm/vdi-operator-7d-abc"] = [f'level=critical msg="{lost}"', "bye"]
    (finding,) = [one for one in cluster.findings() if one.code == "operator_down"]
    assert finding.message.endswith(f"{lost}.")


def test_log_of_a_deleted_pod_is_in_the_status() -> None:
    finding = root(given_up("starting\nSegmentation fault"))
    assert finding.code == "desktop_crashes"
    command, _ = finding.remedy.commands
    assert command.startswith(f"{KUBECTL} get vdisession alice-0 --output jsonpath=")
    assert "{.status.failures.log}" in command
    assert "status.failures.log: Segmentation fault" in finding.evidence


@pytest.mark.parametrize(
    ("log", "message"), [(f"{_LIBRARY}\nexiting", ""), ("", f"last log line: {_LIBRARY!r}.")]
)
def test_cause_is_read_from_the_words_in_the_status(log: str, message: str) -> None:
    cluster = given_up(log)
    cluster.session["status"]["message"] = message
    assert root(cluster).code == "library_missing"


def test_previous_log_is_read_where_there_is_one() -> None:
    cluster = Cluster()
    cluster.crashes()
    assert root(cluster).remedy.commands == (f"{KUBECTL} logs alice-0 --previous", RESTART)


def test_bundle_hides_secrets_in_the_log_of_a_status() -> None:
    snapshot = redact(given_up("login: password=hunter2").snapshot())
    (session,) = snapshot.objects.vdisessions
    assert "hunter2" not in str(session)
    assert run_checks(snapshot)


@pytest.mark.parametrize(
    ("version", "role", "commands"),
    [
        ("v1.34.4", False, ("systemctl status kubelet", "crictl rmi --prune")),
        ("v1.34.9+k3s1", True, ("systemctl status k3s", "k3s crictl rmi --prune")),
        ("v1.34.9+k3s1", False, ("systemctl status k3s-agent", "k3s crictl rmi --prune")),
    ],
)
def test_commands_of_a_node_are_those_of_its_kubelet(
    version: str, role: bool, commands: tuple[str, str]
) -> None:
    cluster = Cluster()
    node = cluster.one("nodes")
    node["status"]["nodeInfo"]["kubeletVersion"] = version
    if role:
        node["metadata"]["labels"]["node-role.kubernetes.io/control-plane"] = "true"
    for condition in node["status"]["conditions"]:
        condition["status"] = "False" if condition["type"] == "Ready" else "True"
    shown = {command for finding in cluster.findings() for command in finding.remedy.commands}
    assert shown >= set(commands)


@pytest.mark.parametrize(
    "fault", ["two_on_one_home", "another_route_takes_the_host", "class_misspelt"]
)
def test_foreign_object_is_shown_before_it_is_deleted(fault: str) -> None:
    cluster = FAULTS.broken("class_gone" if fault == "class_misspelt" else fault)
    if fault == "class_misspelt":
        cluster.objects["storageclasses"].append({"metadata": {"name": "longhorn"}})
    shown, delete = root(cluster).remedy.commands[-2:]
    assert " delete " in delete
    assert (
        delete.replace(" delete ", " describe ") == shown
        or delete.replace(" delete ", " get ") in shown
    )


@pytest.mark.parametrize("name", ["middleware_gone", "role_cut", "binding_gone"])
def test_hand_made_change_of_the_chart_is_upgraded_away(name: str) -> None:
    assert root(FAULTS.broken(name)).remedy.commands[0] == "vdi upgrade --namespace kasm --yes"


def test_field_that_someone_has_added_is_removed_by_a_command() -> None:
    cluster = Cluster()
    differs(
        cluster,
        "serviceaccount/kasm/vdi-operator",
        "automountServiceAccountToken",
        "false",
        "not set",
    )
    assert root(cluster).remedy.commands[1:] == (
        (
            "kubectl --namespace kasm patch serviceaccount vdi-operator --type merge --patch "
            "'{\"automountServiceAccountToken\":null}'"
        ),
    )


def test_runtime_class_in_the_template_ends_the_finding() -> None:
    cluster = Cluster()
    cluster.one("nodes")["status"]["nodeInfo"]["kubeletVersion"] = "v1.34.9+k3s1"
    cluster.pod["spec"]["containers"][0]["resources"] = {"limits": {"nvidia.com/gpu": "1"}}
    assert "gpu_runtime_class_unset" in cluster.roots()
    cluster.template["placement"] = {"runtimeClassName": "nvidia"}
    assert "gpu_runtime_class_unset" not in cluster.roots()
