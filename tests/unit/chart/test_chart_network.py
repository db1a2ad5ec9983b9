"""The papers about the network agree with each other, and `helm test` says in words what its pods
saw.
"""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from tools.generate import chart
from tools.generate.chart_render import read_objects
from unit.chart.trial_module import FOLDER, probe, trial

METADATA = (
    "169.254.169.254/32",
    "100.100.100.200/32",
    "168.63.129.16/32",
    "fd00:ec2::254/128",
    "192.0.0.192/32",
)
ALL = {"the API server", "names", "cloud metadata", "the internet"}


def policies() -> dict[str, dict[str, Any]]:
    made = read_objects(chart.MANIFEST.read_text())
    return {each["metadata"]["name"]: each for each in made if each["kind"] == "NetworkPolicy"}


def test_internet_rule_excludes_private_and_metadata_addresses() -> None:
    (internet,) = [
        rule for rule in policies()["vdi-desktops"]["spec"]["egress"] if "ports" not in rule
    ]
    blocks = [peer["ipBlock"] for peer in internet["to"]]
    assert [block["cidr"] for block in blocks] == ["0.0.0.0/0", "::/0"]
    for block in blocks:
        excepted = [ip_network(each) for each in block["except"]]
        assert all(each.version == ip_network(block["cidr"]).version for each in excepted), (
            "the API server refuses it"
        )
    excepted = [ip_network(each) for block in blocks for each in block["except"]]
    private = (
        "10.42.0.0/16",
        "10.43.0.0/16",
        "172.16.0.0/12",
        "192.168.0.0/16",
        "100.64.0.0/10",
        "fc00::/7",
    )
    for name in (*private, *METADATA):
        network = ip_network(name)
        same_family = [each for each in excepted if each.version == network.version]
        assert any(network.subnet_of(each) for each in same_family), name  # type: ignore[arg-type]


# helm test: what it says


def a_plan() -> dict[str, Any]:
    def role(ours: bool, **ports: int) -> dict[str, Any]:
        return {"namespace": "kasm", "labels": {}, "ports": ports, "ours": ours}

    return {
        "roles": {
            "desktop": role(True, http=8080),
            "gateway": role(True, http=8080),
            "neighbour": role(False, web=80),
        },
        "services": {},
        "outside": {
            "the API server": [443],
            "names": [0],
            "cloud metadata": [80],
            "the internet": [443],
        },
        "allowed": {
            "desktop 8080": ["gateway"],
            "the API server 443": ["gateway"],
            "names 0": ["desktop", "gateway"],
        },
    }


def seen(gets_through: Callable[[Any], bool]) -> list[tuple[Any, bool]]:
    plan = a_plan()
    hosts = dict.fromkeys((*plan["roles"], *plan["outside"]), "")
    return [(connection, gets_through(connection)) for connection in trial.connections(plan, hosts)]


def test_all_pairs_that_a_policy_decides_are_tried() -> None:
    pairs = {(one.source, one.target) for one, _ in seen(lambda _: True)}
    assert {
        ("desktop", "desktop"),
        ("neighbour", "gateway"),
        ("desktop", "the API server"),
    } <= pairs
    assert (
        not {("neighbour", "neighbour"), ("neighbour", "the internet"), ("neighbour", "names")}
        & pairs
    )


def test_planned_connections_show_enforced_policies() -> None:
    lines, status = trial.judge(seen(lambda one: bool(one.expected)), ALL)
    assert status == 0 and "NetworkPolicies are enforced" in lines[-1]
    assert "gateway reaches: desktop 8080, the API server 443, names" in lines
    assert not any("(!)" in line for line in lines)


def test_open_connections_show_unenforced_policies() -> None:
    lines, status = trial.judge(seen(lambda _: True), ALL)
    assert status == 1 and lines[-1].startswith(
        "THIS CLUSTER DOES NOT ENFORCE NetworkPolicies: all 7 connections"
    )


def test_blocked_network_names_the_expected_connections() -> None:
    lines, status = trial.judge(seen(lambda _: False), ALL)
    assert status == 1 and "  gateway -> desktop 8080: is blocked, and should get through" in lines
    assert not any("DOES NOT ENFORCE" in line for line in lines)


def test_one_open_connection_is_named() -> None:
    lines, status = trial.judge(
        seen(lambda one: one.expected or str(one) == "desktop -> desktop 8080"), ALL
    )
    assert status == 1 and "  desktop -> desktop 8080: gets through, and should be blocked" in lines
    assert lines[-3].startswith("1 of ")


def test_unreachable_target_does_not_judge_policies() -> None:
    lines, status = trial.judge(seen(lambda one: bool(one.expected)), ALL - {"the internet"})
    assert status == 0 and "not tried: the internet cannot be reached from here at all" in lines
    assert not any(line.startswith("desktop") and "the internet" in line for line in lines)


def test_a_pod_that_cannot_start_says_why() -> None:
    waiting = {"reason": "ErrImageNeverPull", "message": "Container image is not present"}
    status = {"phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]}
    assert trial.why(status) == "Pending; ErrImageNeverPull: Container image is not present"
    ended = {
        "containerStatuses": [
            {"state": {"terminated": {"reason": "Error", "message": "Traceback"}}}
        ]
    }
    with pytest.raises(trial.CouldNotTryError, match="Traceback"):
        trial.last_words(ended)
    assert trial.address(ended) is None, "who does not run listens to nobody"


# helm test: its pods


@pytest.fixture
def listener() -> Iterator[int]:
    """A probe that listens, in a process of its own, as in its pod."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        (FOLDER / "probe.py").read_text(),
        json.dumps({"listen": [port]}),
    ]
    with subprocess.Popen(command, env={**os.environ, "POD_ADDRESS": "127.0.0.1"}) as process:
        yield port
        process.send_signal(signal.SIGTERM)
    assert process.returncode == 0


def test_connection_is_retried_until_it_is_as_planned(listener: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        closed: int = free.getsockname()[1]
    tries = [
        {"host": "127.0.0.1", "port": listener, "expected": True},  # it may still be starting
        {"host": "127.0.0.1", "port": closed, "expected": False},
    ]
    assert probe.settle(tries, 8) == [True, False]
    for _ in range(150):  # more than the kernel keeps waiting: each is taken
        assert probe.reaches("127.0.0.1", listener)


def test_any_dns_answer_counts_as_reachable() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        assert probe.QUERY.count(b"kubernetes") == 1
        question = probe.QUERY[12:]
        length = len(b"\x0akubernetes\x07default\x03svc\x00\x00\x01\x00\x01")
        assert len(question) == length, "one name, type A, class IN, and no more"
