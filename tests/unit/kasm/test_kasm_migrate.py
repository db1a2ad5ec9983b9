"""From one generation to the next: each value is accounted for, and the new file is one that the new chart reads."""

from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import given

from unit.kasm.install_options import TUTORIAL, good_options, values_of
from vdi.findings.model import Severity
from vdi.kasm.generations import ALL, A, B, C, Generation
from vdi.kasm.values import migrate as migrate_module
from vdi.kasm.values import migrate_table
from vdi.kasm.values.check import check_values
from vdi.kasm.values.migrate import CannotMigrateError, leaves, migrate
from vdi.kasm.values.migrate_table import Fate
from vdi.kasm.values.options import InstallOptions
from vdi.kasm.values.rules import Subject

OLD = """
global:
  hostname: kasm.example.com
  namespace: kasm
  altHostnames: [other.example.com]
  image: {pullPolicy: Always, pullSecrets: registry}
  kasmPasswords: {adminPassword: "", dbPassword: hunter2}
kasmApp:
  name: kasm
  zoneName: default
  deploymentSize: medium
  applyHardening: true
  servicesToDeploy:
    kasmProxy: {replicas: 2, tag: 1.17.0, image: kasmweb/proxy}
    kasmApi: {image: registry.local/kasm/api, resources: {requests: {cpu: 1}}}
    kasmShare: {deploy: true}
    db: {storageClassName: local-path}
kasmCerts:
  ingress: {name: tls, create: false}
mine: {own: 1}
"""


def fates(notes: Any) -> dict[str, str]:
    return {note.path: note.fate.value for note in notes}


def test_a_to_b_says_what_became_of_each_value() -> None:
    done = migrate(yaml.safe_load(OLD), A, B)
    assert done.values["publicAddr"] == "kasm.example.com"
    assert done.values["imagePullSecrets"] == {"enabled": True, "name": "registry"}
    assert done.values["certificate"]["secretName"] == "tls"
    assert done.values["database"]["storage"]["storageClassName"] == "local-path"
    assert done.values["ingress"]["enabled"] is True
    assert "mine" not in done.values
    assert fates(done.notes) == {
        "global.hostname": "renamed",
        "global.namespace": "needs a person",
        "global.altHostnames": "needs a person",
        "global.image.pullPolicy": "renamed",
        "global.image.pullSecrets": "renamed",
        "global.kasmPasswords.adminPassword": "dropped",
        "global.kasmPasswords.dbPassword": "needs a person",
        "kasmApp.name": "dropped",
        "kasmApp.zoneName": "dropped",
        "kasmApp.deploymentSize": "renamed",
        "kasmApp.applyHardening": "renamed",
        "kasmApp.servicesToDeploy.kasmProxy.replicas": "dropped",
        "kasmApp.servicesToDeploy.kasmProxy.tag": "dropped",
        "kasmApp.servicesToDeploy.kasmProxy.image": "dropped",
        "kasmApp.servicesToDeploy.kasmApi.image": "needs a person",
        "kasmApp.servicesToDeploy.kasmApi.resources": "renamed",
        "kasmApp.servicesToDeploy.kasmShare.deploy": "dropped",
        "kasmApp.servicesToDeploy.db.storageClassName": "renamed",
        "kasmCerts.ingress.name": "renamed",
        "kasmCerts.ingress.create": "dropped",
        "mine.own": "needs a person",
        "proxyService.type": "added",
        "ingress.enabled": "added",
        "database.storage.retentionPolicy.whenDeleted": "added",
    }
    assert "hunter2" not in str(done)


def test_a_to_c_goes_through_b_and_speaks_of_the_first_files_paths() -> None:
    done = migrate(yaml.safe_load(OLD), A, C)
    notes = {note.path: note for note in done.notes}
    assert notes["kasmApp.servicesToDeploy.kasmShare.deploy"].fate is Fate.DROPPED
    assert "no share service" in notes["kasmApp.servicesToDeploy.kasmShare.deploy"].why
    assert notes["global.hostname"].new_path == "publicAddr"
    assert notes["kasmApp.servicesToDeploy.kasmProxy.replicas"].new_path == "components.proxy.replicas"
    assert done.values["components"]["proxy"] == {"replicas": 2}
    assert done.values["dbManagement"] == {"initialize": False, "upgrade": {"enable": True}}


def test_b_to_c_renames_zones_registries_and_annotations() -> None:
    done = migrate(
        yaml.safe_load(
            """
            publicAddr: kasm.example.com
            kasmZones: [{name: a, upstream_auth_addr: a.example.com}, {name: b, upstream_auth_addr: b.example.com}]
            annotations: {cron: {x: y}}
            database: {hostname: kasm-db}
            components: {api: {image: {repository: registry.local:5000/kasm/api, tag: 1.18.1}, initContainers: []}}
            """
        ),
        B,
        C,
    )
    assert done.values["kasmZones"] == [
        {"name": "a", "proxy_hostname": "a.example.com", "primary": True},
        {"name": "b", "proxy_hostname": "b.example.com"},
    ]
    assert done.values["extraAnnotations"] == {"cronJob": {"x": "y"}}
    assert done.values["components"]["api"] == {
        "image": {"repository": "kasm/api", "registry": "registry.local:5000"},
        "extraInitContainers": [],
    }
    assert "hostname" not in done.values["database"]
    assert fates(done.notes)["certificate.secretName"] == "needs a person"


def test_the_gateways_become_one_workload_after_1_1190_7() -> None:
    values = {"components": {"guac": {"enabled": False, "replicas": 2}, "rdpGateway": {"replicas": 1}}}
    done = migrate(values, C, C, (1, 1190, 8))
    assert done.values == {"components": {"connectionProxy": {"guac": {"enabled": False}, "replicas": 2}}}
    assert fates(done.notes)["components.rdpGateway.replicas"] == "needs a person"
    assert migrate(values, C, C).values == values


def test_the_mission_s_file_is_carried_over_whole() -> None:
    done = migrate(yaml.safe_load(TUTORIAL), A, C)
    assert [note.path for note in done.of(Fate.PERSON)] == ["certificate.secretName"]
    assert [note.path for note in done.of(Fate.DROPPED)] == ["redis.resources"]
    assert done.values["database"]["storage"]["storageClassName"] == "local-path"
    assert done.values["database"]["resources"]["limits"] == {"cpu": "500m", "memory": "1Gi"}
    assert done.values["components"]["manager"]["resources"]["requests"] == {"cpu": "500m", "memory": "1Gi"}
    assert done.values["ingress"]["enabled"] is False
    assert "ingress.enabled" not in [note.path for note in done.of(Fate.ADDED)]
    same = migrate(yaml.safe_load(TUTORIAL), A, A)
    services = same.values["kasmApp"]["servicesToDeploy"]
    assert set(services) == {"db", "kasmRedis", "kasmManager", "kasmApi"}
    assert [note.path for note in same.of(Fate.DROPPED)] == ["global.ingress.enabled"]


def test_two_keys_of_tutorials_that_contradict_each_other_need_a_person() -> None:
    values = {
        "global": {"hostname": "k.example.com", "storageClass": "fast"},
        "postgres": {"primary": {"persistence": {"storageClass": "slow"}}},
    }
    done = migrate(values, A, B)
    assert done.values["database"]["storage"]["storageClassName"] == "fast"
    (note,) = (note for note in done.of(Fate.PERSON) if note.path.startswith("postgres"))
    assert note.why == "database.storage.storageClassName is already fast: decide which value is right"


@pytest.fixture
def d(monkeypatch: pytest.MonkeyPatch) -> Generation:
    """A generation after C that has C's values, and nothing else to say of the step."""
    d = replace(C, chart="kasm-next")
    for module in (migrate_module, migrate_table):
        monkeypatch.setattr(module, "ALL", (*ALL, d))
        monkeypatch.setattr(module, "STEPS", (*migrate_table.STEPS, migrate_table.Step(source=C, target=d)))
    return d


def test_a_step_does_only_what_it_says(d: Generation) -> None:
    values = {"publicAddr": "kasm.example.com", "kasmZones": [{"name": "a", "proxy_hostname": "a.example.com"}]}
    done = migrate(values, C, d)
    assert done.values == values
    assert set(fates(done.notes).values()) == {"kept"}


def test_what_goes_past_a_generation_is_carried_on(d: Generation) -> None:
    assert migrate(yaml.safe_load(OLD), A, d) == migrate(yaml.safe_load(OLD), A, C)


def test_there_is_no_way_back() -> None:
    with pytest.raises(CannotMigrateError, match=r"cannot be converted from generation C .* allowed: C"):
        migrate({}, C, A)


@given(good_options())
def test_rendered_values_migrate_to_every_later_generation_and_are_read_there(given_options: InstallOptions) -> None:
    source = given_options.generation
    old = values_of(given_options)
    for target in ALL[ALL.index(source) :]:
        version = (1, 1190, 8) if target is C else target.newest
        done = migrate(old, source, target, version)
        counted = [note.path for note in done.notes if note.fate is not Fate.ADDED]
        paths = [path for path, _ in leaves(source, old)]
        assert sorted(path for path in counted if path in paths) == sorted(paths)
        unread = [
            each.object
            for each in check_values(Subject(target, version, done.values))
            if each.severity is Severity.ERROR and each.object != "certificate.secretName"
        ]
        assert unread == []
        if target is source and source is not C:
            assert done.values == old
