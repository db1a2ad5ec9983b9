"""The TURN server that the chart configures, for real: Debian's turnserver, started by the chart's
own script.

It runs as no one, without a capability, in a network of its own where everything that must not be
reached answers.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster.helm_tools import CHART
from vdi.session.credentials import make_turn_credentials

TESTS = Path(__file__).parents[1]
NOW, BEFORE, WRONG = "n" * 40, "b" * 40, "w" * 40
VALUES = (
    "realm=turn.example.com",
    "auth.existingSecret=turn-auth",
    "allowedPeers={10.42.0.0/16}",
    "quotas.perUser=5",
)
Lab = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def lab(helm: Path) -> Iterator[Lab]:
    """Render the chart with those values, start the server with those secrets, and carry those
    checks out.
    """
    assert shutil.which("turnserver"), (
        "turnserver is not on PATH: apt-get install --no-install-recommends coturn"
    )

    def run(
        *checks: str,
        secrets: dict[str, str],
        values: tuple[str, ...] = (),
        without: tuple[str, ...] = (),
        **plan: object,
    ) -> dict[str, Any]:
        folder = Path(tempfile.mkdtemp(dir=everybodys))
        for each in (folder, *(folder / name for name in ("config", "auth", "run", "tls"))):
            each.mkdir(exist_ok=True)
            each.chmod(0o777 if each.name == "run" else 0o755)
        for name, content in config_files(helm, *VALUES, *values).items():
            lines = [
                line for line in content.splitlines(keepends=True) if not line.startswith(without)
            ]
            (folder / "config" / name).write_text("".join(lines))
        for name, content in secrets.items():
            (folder / "auth" / name).write_text(content)
        certify(folder / "tls")
        known = {
            "secret": NOW,
            "secrets": {"now": NOW, "before": BEFORE, "wrong": WRONG},
            "over": ["udp", "tcp"],
        }
        made = {"port": 3478, "tlsPort": 5349, "checks": checks, "asked": 12, **known, **plan}
        (folder / "plan.json").write_text(json.dumps(made))
        return carry_out(folder)

    # pytest's folders are closed to no one.
    with tempfile.TemporaryDirectory(prefix="vdi-turn-") as everybodys:
        Path(everybodys).chmod(0o755)
        yield run


def config_files(helm: Path, *values: str) -> dict[str, str]:
    """The files of the Secret with the configuration."""
    sets = [word for value in values for word in ("--set", value)]
    command = [str(helm), "template", "alone", str(CHART / "charts/coturn"), *sets]
    text = subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout
    (found,) = [
        one for one in yaml.safe_load_all(text) if one["metadata"]["name"] == "alone-coturn-config"
    ]
    files: dict[str, str] = found["stringData"]
    return files


def certify(folder: Path) -> None:
    """A certificate of its own, as tls.crt and tls.key."""
    words = (
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj /CN=turn"
        " -days 1"
    )
    files = ["-keyout", str(folder / "tls.key"), "-out", str(folder / "tls.crt")]
    subprocess.run([*words.split(), *files], check=True, capture_output=True, timeout=30)
    (folder / "tls.key").chmod(0o644)


def carry_out(folder: Path) -> dict[str, Any]:
    """Run the lab in a network namespace, which is gone with it."""
    root = os.geteuid() == 0
    command = [
        "unshare",
        *([] if root else ["--map-root-user"]),
        "--net",
        sys.executable,
        "-m",
        "cluster.turn_lab",
    ]
    environment = {
        **os.environ,
        "PYTHONPATH": str(TESTS),
        **({"TURN_LAB_ROOT": "1"} if root else {}),
    }
    done = subprocess.run(
        [*command, str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def attacked(lab: Lab) -> dict[str, Any]:
    """One server that everything is tried on."""
    checks = (
        "credentials",
        "session pod",
        "third party's client",
        "peers",
        "tcp relay",
        "one user",
    )
    return lab(*checks, secrets={"secret": NOW, "previousSecret": BEFORE})


def test_coturn_starts_unprivileged_without_errors(attacked: dict[str, Any]) -> None:
    log = attacked["log"]
    assert "Bad configuration" not in log and "nknown" not in log
    wrong = [
        line for line in log.splitlines() if "ERROR" in line and "denied in the range" not in line
    ]
    assert [line for line in wrong if "session" not in line] == []
    assert NOW not in attacked["arguments"] and BEFORE not in attacked["arguments"]
    assert NOW not in log and BEFORE not in log
    if os.geteuid() == 0:
        status = dict(
            line.split(":\t", 1) for line in attacked["status"].splitlines() if ":\t" in line
        )
        assert status["Uid"].split() == ["65534"] * 4
        assert {
            name: int(status[name], 16) for name in ("CapPrm", "CapEff", "CapBnd", "CapAmb")
        } == dict.fromkeys(("CapPrm", "CapEff", "CapBnd", "CapAmb"), 0)


def test_coturn_relays_a_browser_to_a_desktop_pod(attacked: dict[str, Any]) -> None:
    assert attacked["session pod"] == {"udp": "relayed", "tcp": "relayed"}
    assert attacked["third party's client"].startswith("0 (0.000000%)")


def test_traefik_udp_entry_point_relays(lab: Lab, traefik: Path) -> None:
    assert lab("traefik", secrets={"secret": NOW}, traefik=str(traefik))["traefik"] == "relayed"


def test_credentials_of_the_gateway_are_accepted(lab: Lab) -> None:
    good = make_turn_credentials(NOW, "uid-1", datetime.now(UTC) + timedelta(seconds=60))
    assert lab("given", secrets={"secret": NOW}, given=good)["given"] == "allowed"


def test_rotation_accepts_current_and_previous_secret_only(attacked: dict[str, Any]) -> None:
    refused = {"wrong": "401", "expired": "401", "none": "401"}
    assert attacked["credentials"] == {"now": "allowed", "before": "allowed", **refused}


def test_after_the_rotation_the_previous_secret_is_refused(lab: Lab) -> None:
    found = lab("credentials", secrets={"secret": NOW})["credentials"]
    assert (found["now"], found["before"]) == ("allowed", "401")


def test_internal_peers_are_refused_in_every_notation(attacked: dict[str, Any]) -> None:
    assert len(attacked["peers"]) == 21
    assert {
        name: said for name, said in attacked["peers"].items() if said not in ("403", "443")
    } == {}
    assert len(attacked["heard"]) == 9 and set(attacked["heard"].values()) == {0}


def test_undenied_peers_are_reachable_without_the_chart(lab: Lab) -> None:
    found = lab(
        "peers", "tcp relay", secrets={"secret": NOW}, without=("denied-peer-ip", "no-tcp-relay")
    )
    through = ("metadata service", "API server", "another node", "public address", "unique local")
    assert {name: found["peers"][name] for name in through} == dict.fromkeys(through, "relayed")
    assert found["heard"]["10.43.0.1"] > 0
    assert found["tcp relay"]["allocation for TCP"] == "allowed"


def test_tcp_relay_is_refused(attacked: dict[str, Any]) -> None:
    assert attacked["tcp relay"] == {
        "allocation for TCP": "442",
        "CONNECT to the API server": "403",
    }


def test_quota_limits_one_user(attacked: dict[str, Any]) -> None:
    assert attacked["one user"] == ["allowed"] * 5 + ["486"] * 7


def test_quota_limits_all_users_together(lab: Lab) -> None:
    assert (
        lab("all users", secrets={"secret": NOW}, values=("quotas.total=8",))["all users"]
        == ["allowed"] * 8 + ["486"] * 4
    )


def test_coturn_relays_over_tls(lab: Lab) -> None:
    found = lab(
        "session pod",
        secrets={"secret": NOW},
        values=("tls.existingSecret=cert",),
        over=["tls", "udp"],
    )
    assert found["session pod"] == {"tls": "relayed", "udp": "relayed"}


@pytest.mark.parametrize(
    ("secret", "complaint"),
    [
        ("short", "has 5 characters; it takes at least 32"),
        (f"{'x' * 32}\nno-auth", "holds a character other than"),
    ],
)
def test_weak_or_injecting_secret_is_refused(lab: Lab, secret: str, complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        lab(secrets={"secret": secret})
