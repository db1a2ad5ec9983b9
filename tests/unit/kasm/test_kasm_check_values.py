"""A user's own file: what is wrong with it is said with the right name."""

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from unit.kasm.install_options import TUTORIAL
from vdi.findings.model import Severity
from vdi.kasm.generations import ALL, by_letter, of_label
from vdi.kasm.generations.a import A
from vdi.kasm.generations.b import B
from vdi.kasm.generations.c import C
from vdi.kasm.generations.model import ALWAYS, Generation, ValueKeys, Version
from vdi.kasm.preflight.needs import plan_of_values
from vdi.kasm.values.check import Code, Subject, check_values
from vdi.kasm.values.render import NODE_8GB, InstallOptions, render, set_at

REPLICATED = (
    "kasmProxy",
    "kasmApi",
    "kasmManager",
    "kasmGuac",
    "rdpGateway",
    "rdpHttpsGateway",
    "kasmShare",
)
GOOD = {
    "A": yaml.safe_dump(
        {
            "global": {"hostname": "kasm.example.com"},
            "kasmApp": {"servicesToDeploy": {name: {"replicas": 1} for name in REPLICATED}},
        }
    ),
    "B": "publicAddr: kasm.example.com\ncertificate: {secretName: tls}\n",
    "C": "publicAddr: kasm.example.com\ncertificate: {secretName: tls}\n",
}
QUIET = """
useImageTags: 1.19.0
proxyService: {type: ClusterIP}
ingress: {enabled: true}
database: {storage: {retentionPolicy: {whenDeleted: Retain}}}
"""

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.text(min_size=1, max_size=6), inner, max_size=2)
    ),
    max_leaves=5,
)


def found(
    generation: Generation, text: str, version: Version | None = None
) -> dict[str, tuple[str, str]]:
    values: dict[str, Any] = {
        **yaml.safe_load(GOOD[generation.letter]),
        **(yaml.safe_load(text) or {}),
    }
    subject = Subject(generation, version or generation.newest, values)
    return {
        each.object: (each.severity.value, f"{each.message} {each.remedy.text}".strip())
        for each in check_values(subject)
    }


def test_valid_file_has_no_findings() -> None:
    assert found(C, QUIET) == {}


@pytest.mark.parametrize(
    ("generation", "text", "path", "words"),
    [
        (C, "global: {hostname: x.example.com}", "global.hostname", "is a value of generation A (kasm-single-zone)"),
        (C, "publicAdr: x.example.com", "publicAdr", "Did you mean publicAddr?"),
        (C, "PublicAddr: x.example.com", "PublicAddr", "Did you mean publicAddr?"),
        (C, "database: {storage: {pvcsize: 8}}", "database.storage.pvcsize", "Did you mean database.storage.pvcSize?"),
        (C, "kasmApp: {deploymentSize: small}", "kasmApp.deploymentSize", "Set deploymentSize"),
        (A, "publicAddr: x.example.com", "publicAddr", "Set global.hostname"),
        (C, "components: {redis: {enabled: true}}", "components.redis.enabled",
         "Remove it: the chart has no component redis."),
        (C, "components: {connectionProxy: {guac: {enabled: false}}}", "components.connectionProxy",
         "only from 1.1190.8"),
        (C, "storageClassName: fast", "storageClassName", "Did you mean database.storage.storageClassName?"),
        (C, "kasmZones: [{name: a, upstream_auth_addr: a.example.com}]", "kasmZones[0].upstream_auth_addr",
         "Set proxy_hostname"),
        (B, "kasmZones: [{name: a, proxy_hostname: a.example.com}]", "kasmZones[0].proxy_hostname",
         "Set upstream_auth_addr"),
    ],
)  # fmt: skip
def test_unknown_key_names_the_right_one(
    generation: Generation, text: str, path: str, words: str
) -> None:
    level, said = found(generation, text)[path]
    assert (level, words in said) == ("error", True), said


def test_keys_of_other_charts_name_their_replacement() -> None:
    deploy = "kasmApp.servicesToDeploy"
    expected = {
        "A": {
            "global.storageClass": f"Set {deploy}.db.storageClassName",
            "global.ingress.enabled": "Remove it: the chart always creates its Ingress.",
            "postgres.primary.persistence.storageClass": f"Set {deploy}.db.storageClassName",
            "postgres.primary.resources": f"Set {deploy}.db.resources",
            "redis.resources": f"Set {deploy}.kasmRedis.resources",
            "kasmManager.resources": f"Set {deploy}.kasmManager.resources",
            "kasmApi.resources": f"Set {deploy}.kasmApi.resources",
        },
        "B": {
            "global.hostname": "Set publicAddr",
            "global.image.pullPolicy": "Set imagePullPolicy",
            "global.storageClass": "Set database.storage.storageClassName",
            "global.ingress.enabled": "Set ingress.enabled",
            "postgres.primary.persistence.storageClass": "Set database.storage.storageClassName",
            "postgres.primary.resources": "Set database.resources",
            "redis.resources": "Remove it: the chart has no component redis.",
            "kasmManager.resources": "Set components.manager.resources",
            "kasmApi.resources": "Set components.api.resources",
        },
    }
    expected["C"] = expected["B"]
    for generation in ALL:
        found = check_values(Subject(generation, generation.newest, yaml.safe_load(TUTORIAL)))
        unknown = {each.object: each.remedy.text for each in found if each.code == Code.UNKNOWN_KEY}
        assert unknown == expected[generation.letter]


def test_key_of_another_chart_version_names_it() -> None:
    assert found(C, "nginxResolver: 10.43.0.10", (1, 1190, 4))["nginxResolver"][1].endswith(
        "only from 1.1190.5."
    )
    assert (
        "only up to 1.1190.7."
        in found(C, "components: {guac: {replicas: 1}}", (1, 1190, 8))["components.guac"][1]
    )


@pytest.mark.parametrize(
    ("text", "path", "level"),
    [
        ("deploymentSize: small", "proxyService.type", "warning"),
        ("database: {standalone: true}", "database.hostname", "error"),
        ("deploymentSize: small", "database.storage.retentionPolicy.whenDeleted", "warning"),
        ("certificate: {certManager: {enabled: true}}", "certificate.secretName", "error"),
        ("certificate: {}", "certificate.secretName", "error"),
        ("publicAddr: ''", "publicAddr", "error"),
        ("publicAddr: 5", "publicAddr", "error"),
        ("publicAddr: https://kasm.example.com", "publicAddr", "error"),
        ("kasmSecrets: {passwords: {admin-password: hunter2}}", "kasmSecrets.passwords.admin-password", "warning"),
        ("imagePullSecrets: {password: hunter2}", "imagePullSecrets.password", "warning"),
        ("kasmSecrets: {create: false, name: mine}", "kasmSecrets.name", "warning"),
        ("useImageTags: develop", "useImageTags", "warning"),
    ],
)  # fmt: skip
def test_conflicting_values_are_reported(text: str, path: str, level: str) -> None:
    said = found(C, text)
    assert said[path][0] == level
    assert "hunter2" not in str(said)


def test_b_requires_a_certificate_and_warns_of_volume_deletion() -> None:
    said = found(B, "certificate: {secretName: ''}")
    assert said["certificate.secretName"][0] == "error"
    assert said["database.storage.retentionPolicy.whenDeleted"][0] == "warning"


def test_only_later_versions_of_c_create_a_certificate() -> None:
    assert "certificate.secretName" not in found(C, "certificate: {}", (1, 1200, 0))
    assert (
        "do not start without it"
        in found(C, "certificate: {}", (1, 1190, 6))["certificate.secretName"][1]
    )


def test_a_version_newer_than_the_newest_known_is_named_as_such() -> None:
    findings = found(C, QUIET + "proxyService: {type: ClusterIP, nodePort: 31000}", (1, 1200, 0))
    level, said = findings["kasm-helm 1.1200.0"]
    assert level == "warning"
    assert "is newer than 1.1190.6, the newest version that this vdi supports" in said
    assert set(found(C, QUIET, (1, 1200, 0))) == {"kasm-helm 1.1200.0"}


def test_first_version_of_a_does_not_read_an_ingress_class() -> None:
    text = {
        **yaml.safe_load(GOOD["A"]),
        "global": {"hostname": "k.example.com", "ingressClassName": "traefik"},
    }
    assert check_values(Subject(A, (1, 16, 1), text)) == ()
    (unknown,) = check_values(Subject(A, (1, 16, 0), text))
    assert unknown.message.endswith(
        "is not read by chart kasm-single-zone 1.16.0, only from 1.16.1."
    )


def test_passwords_in_values_warn_and_placeholders_do_not() -> None:
    said = found(
        A,
        "global: {hostname: k.example.com, kasmPasswords: {adminPassword: hunter2, dbPassword:"
        " ''}}",
    )
    assert set(said) == {"global.kasmPasswords.adminPassword"}
    # The chart's own text.
    assert not found(A, "kasmCerts: {ingress: {key: '### Place public SSL Key here'}}")
    assert set(found(A, "kasmCerts: {ingress: {key: '-----BEGIN PRIVATE KEY-----'}}")) == {
        "kasmCerts.ingress.key"
    }


@given(st.sampled_from(ALL), st.data())
def test_arbitrary_file_never_breaks_the_check(generation: Generation, data: st.DataObject) -> None:
    values: dict[str, Any] = {}
    for path in data.draw(st.lists(st.sampled_from(generation.keys.paths), max_size=4)):
        set_at(values, path, data.draw(VALUES))
    for each in check_values(Subject(generation, generation.newest, values)):
        assert each.message and each.object and each.severity in Severity


@given(st.sampled_from(ALL), VALUES)
def test_a_key_that_no_chart_knows_is_always_found(generation: Generation, value: Any) -> None:
    subject = Subject(generation, generation.newest, {"zzzUnheardOf": value})
    assert any(each.object.startswith("zzzUnheardOf") for each in check_values(subject))


@pytest.mark.parametrize("generation", ALL, ids=lambda each: each.letter)
def test_every_path_of_the_data_is_one_that_the_chart_reads(generation: Generation) -> None:
    for path in generation.paths.values():
        assert path in generation.keys.zone or generation.keys.read(path, generation.newest), path
    for component in generation.components:
        version = component.versions.until or component.versions.since or generation.newest
        paths = [component.switch.removeprefix("!"), component.replicas_path]
        paths += [container.resources_path for container in component.containers]
        for path in filter(None, paths):
            assert generation.keys.read(path, version), path


def test_new_generation_needs_only_its_data(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        ": address deploymentSize imagePullPolicy\ndatabase: keep"
        " class\nparts.{proxy,api,manager,db}: resources*"
    )
    components = tuple(
        replace(component, containers=tuple(replace(each, resources_path=f"parts.{component.key}.resources")
                for each in component.containers), switch="", replicas_path="")
        for component in C.components if component.key in ("proxy", "api", "manager", "db")
    )  # fmt: skip
    paths = {"hostname": "address", "size": "deploymentSize", "pull_policy": "imagePullPolicy",
             "retention": "database.keep", "storage_class": "database.class", "ingress_class": "none"}  # fmt: skip
    d = replace(C, letter="D", chart="kasm-next", umbrella="", keys=ValueKeys(text), components=components, paths=paths,
                makes_certificate=ALWAYS, plain_secrets=(), oldest=(2, 0), newest=(2, 0, 0))  # fmt: skip
    for module in ("vdi.kasm.generations.ALL", "vdi.kasm.values.check.ALL"):
        monkeypatch.setattr(module, (*ALL, d))
    assert by_letter("D") is of_label("kasm-next-2.0.0") is d
    text = render(InstallOptions(d, "kasm.example.com", profile=NODE_8GB))
    assert "values for chart kasm-next 2.0.0 (generation D)" in text
    values = yaml.safe_load(text)
    assert check_values(Subject(d, d.newest, values)) == ()
    assert values["parts"]["api"]["resources"]["requests"] == {"cpu": "250m", "memory": "512Mi"}
    (found,) = check_values(
        Subject(d, d.newest, {**values, "global": {"hostname": "kasm.example.com"}})
    )
    assert found.remedy.text == "Set address"
    assert plan_of_values(d, d.newest, values, "kasm", "kasm").needs.total("cpu") == 1450
