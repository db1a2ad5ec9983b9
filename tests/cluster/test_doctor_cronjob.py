"""The doctor's CronJob as helm installs it: its account reads all that the doctor looks at, and
writes one object.
"""

import os
import subprocess
import sys

import pytest

from cluster.helm_tools import CHART, Tools, rules_of
from vdi.doctor.report import read_record

SCHEDULE = ("--set", "doctor.schedule=*/10 * * * *", "--set", "traefik.tlsSecret=wildcard")


def as_the_job(tools: Tools) -> subprocess.CompletedProcess[str]:
    """The container's arguments, with the token that its account gets."""
    job = tools.named("CronJob", "vdi-doctor", *SCHEDULE)
    (container,) = job["spec"]["jobTemplate"]["spec"]["template"]["spec"]["containers"]
    kubeconfig = tools.kubeconfig_of("vdi-doctor", "vdi-system")
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig)}
    command = [sys.executable, "-m", "vdi", *container["args"]]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


@pytest.mark.long
def test_doctor_job_collects_with_its_rights_and_stores_counts(tools: Tools) -> None:
    tools.upgrade(CHART, *SCHEDULE)
    tools.kubectl(
        "scale", "deployment", "vdi-operator", "--namespace", "vdi-system", "--replicas", "0"
    )
    done = as_the_job(tools)
    assert done.returncode == 0, done.stderr
    assert "not_readable" not in done.stdout
    kept = tools.get("configmap", "vdi-doctor", "--namespace", "vdi-system")
    record = read_record(kept)
    assert record is not None
    # There is no Secret `wildcard`, which the portal's route names too.
    assert [count.code for count in record.counts] == ["certificate_missing", "operator_down"]
    tools.upgrade(CHART, *SCHEDULE, "--set", "logLevel=debug")
    again = tools.get("configmap", "vdi-doctor", "--namespace", "vdi-system")
    assert read_record(again) == record, "an upgrade leaves what it has written"


def test_doctor_job_writes_its_config_map_and_reads_one_secret(tools: Tools) -> None:
    tools.upgrade(CHART, *SCHEDULE)
    account = "system:serviceaccount:vdi-system:vdi-doctor"
    rules = rules_of(tools, account, "vdi-system") | rules_of(tools, account, "vdi-sessions")
    assert {rule for rule in rules if rule[2] not in ("get", "list")} == {
        ("", "configmaps/vdi-doctor", "patch")
    }
    assert {rule for rule in rules if rule[1].startswith("secrets")} == {
        ("", "secrets/wildcard", "get")
    }


def test_doctor_job_reads_secrets_of_chart_templates(tools: Tools) -> None:
    office = ("image=x", "protocol=Web", "basicAuthSecret.name=kasmvnc")
    objects = tools.render(*SCHEDULE, *(f"--set=templates.office.{value}" for value in office))
    names = {
        one["metadata"]["namespace"]: one["rules"][0]["resourceNames"]
        for one in objects
        if one["kind"] == "Role" and one["metadata"]["name"] == "vdi-doctor-secrets"
    }
    assert names == {"vdi-system": ["wildcard"], "vdi-sessions": ["kasmvnc"]}
