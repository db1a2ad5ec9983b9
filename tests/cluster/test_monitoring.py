"""The chart's rules and dashboard, with a real Prometheus that scrapes a real operator.

The gateway's metrics are its own registry, filled by hand; the pages of DCGM's exporters are files
(tests/dcgm), since there is no GPU to measure.
"""

import asyncio
import json
import re
import shutil
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import yaml
from prometheus_client import CollectorRegistry, start_http_server

from cluster.edge_traefik import free_port
from cluster.operator_stage import Stage
from support.metrics_token import token_file
from support.waiting import eventually
from support.web_server import serve_handler
from tools import binaries
from tools.generate.chart_render import render
from vdi.devcluster.progress import Progress
from vdi.gateway.metrics import Metrics
from vdi.settings import METRICS_TOKEN_FILE

FILES = Path(__file__).parents[2] / "charts/vdi/files/monitoring"
CASES = Path(__file__).parent / "monitoring"
DCGM = Path(__file__).parents[1] / "dcgm"


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    with Progress(tmp_path_factory.mktemp("prometheus")) as progress:
        return binaries.ensure(["prometheus", "promtool"], progress=progress)


@pytest.fixture
def rules(tmp_path: Path) -> Path:
    folder = tmp_path / "rules"
    shutil.copytree(FILES, folder)
    return folder


@pytest.mark.long
def test_every_alert_fires_at_its_threshold(programs: dict[str, Path], rules: Path) -> None:
    cases = [shutil.copy(path, rules) for path in sorted(CASES.glob("*-test.yaml"))]
    for words in (
        ["check", "rules", *map(str, rules.glob("*-rules.yaml"))],
        ["test", "rules", *map(str, cases)],
    ):
        done = subprocess.run(
            [programs["promtool"], *words], capture_output=True, text=True, timeout=150, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_has_a_case_and_a_page() -> None:
    alerts = {
        rule["alert"]
        for path in FILES.glob("*-rules.yaml")
        for rule in _rules(path)
        if "alert" in rule
    }
    expected = {
        case["alertname"]
        for path in CASES.glob("*-test.yaml")
        for test in yaml.safe_load(path.read_text())["tests"]
        for case in test["alert_rule_test"]
        if case["exp_alerts"]
    }
    assert alerts == expected
    headings = re.findall(
        r"^### (\w+)$", (FILES.parents[3] / "docs/monitoring.md").read_text(), re.MULTILINE
    )
    assert set(headings) == alerts


def _rules(path: Path) -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


class Prometheus:
    """One that runs."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        self._http = http

    async def series(self, query: str) -> list[float]:
        """The current result of a query; empty while Prometheus is not up yet."""
        return [float(one["value"][1]) for one in await self._ask(query)]

    async def labelled(self, query: str, *labels: str) -> dict[tuple[str, ...], float]:
        """The current result of a query, by these labels."""
        found = await self._ask(query)
        return {
            tuple(one["metric"].get(label, "") for label in labels): float(one["value"][1])
            for one in found
        }

    async def _ask(self, query: str) -> list[dict[str, Any]]:
        try:
            async with self._http.get("/api/v1/query", params={"query": query}) as answer:
                said = await answer.json()
        except aiohttp.ClientError:
            return []
        assert said["status"] == "success", (query, said)
        result: list[dict[str, Any]] = said["data"]["result"]
        return result

    async def firing(self, alert: str) -> bool:
        return bool(await self.series(f'ALERTS{{alertname="{alert}", alertstate="firing"}}'))


@asynccontextmanager
async def prometheus(
    program: Path, folder: Path, targets: dict[str, int], rules: Path
) -> AsyncIterator[Prometheus]:
    port = free_port()
    scrape = [
        {
            "job_name": name,
            "static_configs": [{"targets": [f"127.0.0.1:{target}"], "labels": {"pod": name}}],
            **(
                {}
                if name == "without-token"
                else {"authorization": {"credentials_file": str(token_file(folder))}}
            ),
        }
        for name, target in targets.items()
    ]
    interval = {
        "scrape_interval": "500ms",
        "scrape_timeout": "500ms",
        "evaluation_interval": "500ms",
    }
    config = {
        "global": interval,
        "rule_files": [str(rules / "*-rules.yaml")],
        "scrape_configs": scrape,
    }
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    words = [f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, *words, f"--web.listen-address=127.0.0.1:{port}", stdout=log, stderr=log
        )
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as http:
            yield Prometheus(http)
    finally:
        process.terminate()
        await process.wait()


def gateway_registry() -> CollectorRegistry:
    """The gateway's own metrics, after some work."""
    metrics = Metrics()
    metrics.requests.labels("/", "GET", "200").inc()
    metrics.verify_seconds.observe(0.001)
    metrics.verifications.labels("allowed").inc()
    metrics.dependency_up.labels("database").set(1)
    metrics.logins.labels("local", "in").inc()
    metrics.actions.labels("start", "done").inc()
    metrics.glass_to_glass.labels("office").observe(0.04)
    metrics.first_picture.labels("office").observe(1.4)
    metrics.probes.labels("office", "measured").inc()
    metrics.probe_frame_rate.labels("office").set(60)
    metrics.probe_bitrate.labels("office").set(800_000)
    return metrics.registry


@pytest.fixture
def dcgm() -> Iterator[dict[str, int]]:
    """A DCGM exporter for each of the pages in tests/dcgm, as Prometheus' targets."""

    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = (DCGM / f"{self.server.server_name}.txt").read_bytes()  # type: ignore[attr-defined]
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *words: object) -> None:
            """It is asked twice a second."""

    with ExitStack() as stack:
        ports = {}
        for name in ("shared", "old", "mig"):
            server = stack.enter_context(serve_handler(Page))
            server.server_name = name
            ports[f"dcgm-{name}"] = server.server_port
        yield ports


async def one_gpu_and_two_who_want_it(stage: Stage) -> None:
    await stage.node("gpu", gpu="1")
    placement = {"nodeSelector": stage.here}
    name = f"{stage.namespace}-gpu"
    await stage.template_named(
        name, placement=placement, resources={"defaultGPU": 1}, persistence={"enabled": False}
    )
    await stage.session("carol-desktop", name)
    # In the same second, either of the two may be first.
    await stage.reach("carol-desktop", "Creating")
    await stage.session("dave-desktop", name)
    await stage.reach("dave-desktop", "Pending", "in line")


def without_patience(rules: Path) -> None:
    """`for: 0s` in each alert: how long it waits is promtool's test."""
    for path in rules.glob("*-rules.yaml"):
        path.write_text(re.sub(r"^( +for:) .*$", r"\1 0s", path.read_text(), flags=re.MULTILINE))


@pytest.mark.long
async def test_every_query_of_the_dashboard_finds_data_and_alerts_fire(
    stage: Stage, programs: dict[str, Path], rules: Path, dcgm: dict[str, int], tmp_path: Path
) -> None:
    panels = json.loads((FILES / "dashboard.json").read_text())["panels"]
    queries = {
        target["expr"]: panel["title"] for panel in panels for target in panel.get("targets", ())
    }
    assert len(queries) > 25
    without_patience(rules)
    template = await stage.template(persistence={"enabled": False})
    await stage.pool(template, 0)
    gateway, serving = start_http_server(0, "127.0.0.1", gateway_registry())
    async with stage.operator() as operator:
        targets = {
            "operator": operator,
            "without-token": operator,
            "gateway": gateway.server_port,
            **dcgm,
        }
        async with prometheus(programs["prometheus"], tmp_path, targets, rules) as seen:
            await eventually(lambda: seen.series("vdi_leader == 1"), "the operator is scraped")
            await eventually(
                lambda: seen.series('up{job="without-token"} == 0'), "not without the token"
            )
            assert not await seen.series('vdi_leader{job="without-token"}')
            for name in ("alice-desktop", "bob-desktop"):
                await stage.start(name, template)
            missing = dict(queries)

            async def all_found() -> bool:
                for query in list(missing):
                    if await seen.series(query.replace("$__rate_interval", "15s")):
                        del missing[query]
                return not missing

            await eventually(all_found, f"every query finds data, but for {list(missing)}")
            started = (
                "histogram_quantile(0.5, sum by (le) (rate(session_startup_seconds_bucket[15s])))"
                " < 30"
            )
            await eventually(lambda: seen.series(started), "the start-up time is known")
            await one_gpu_and_two_who_want_it(stage)
            await eventually(
                lambda: seen.firing("VDIGPUsIdleWhilePeopleWait"), "the alert of idle GPUs"
            )
            busy = await seen.labelled("vdi:gpu_utilization", "Hostname", "gpu")
            assert {key: round(value, 3) for key, value in busy.items()} == {
                ("gpu-b", "0"): 0.62,
                ("gpu-b", "1"): 0.1,
                ("gpu-c", "0"): 0.85,
                ("gpu-d", "0"): 0.6,
            }
            memory = next(query for query, title in queries.items() if title == "Memory by GPU")
            shares = await seen.labelled(memory, "Hostname", "gpu", "GPU_I_ID")
            assert set(shares) == {
                ("gpu-b", "0", ""),
                ("gpu-b", "1", ""),
                ("gpu-d", "0", "1"),
                ("gpu-d", "0", "2"),
            }, "once for each GPU and part, and nothing from a number that DCGM does not have"
            assert round(shares["gpu-b", "0", ""], 3) == 0.455
            gateway.shutdown()
            gateway.server_close()
            serving.join()
            await eventually(lambda: seen.firing("VDIGatewayDown"), "the gateway's alert")
            assert not await seen.firing("VDIOperatorDown")


def test_chart_installs_rules_and_dashboard_unchanged(helm: Path) -> None:
    chosen = ",".join(f"monitoring.{name}=true" for name in ("podMonitor", "rules", "dashboard"))
    chosen += ",monitoring.labels.release=prometheus,doctor.schedule=@hourly"
    objects = render(helm, "values.yaml", "--set", chosen)
    rules = {one["metadata"]["name"]: one for one in objects if one["kind"] == "PrometheusRule"}
    assert set(rules) == {f"vdi-{path.stem}" for path in FILES.glob("*-rules.yaml")}
    for path in FILES.glob("*-rules.yaml"):
        # Some expressions have the release's namespace, so that they fit this release alone.
        spec = json.dumps(rules[f"vdi-{path.stem}"]["spec"])
        spec = spec.replace(r"{namespace=\"vdi-system\"}", "").replace(
            r"namespace=\"vdi-system\", ", ""
        )
        assert json.loads(spec) == yaml.safe_load(path.read_text())
        assert rules[f"vdi-{path.stem}"]["metadata"]["labels"]["release"] == "prometheus"
    (dashboard,) = [one for one in objects if one["metadata"]["name"] == "vdi-dashboard"]
    assert json.loads(dashboard["data"]["vdi.json"]) == json.loads(
        (FILES / "dashboard.json").read_text()
    )
    (monitor,) = [one for one in objects if one["kind"] == "PodMonitor"]
    scraped = {
        pod_metrics_endpoint["port"]
        for pod_metrics_endpoint in monitor["spec"]["podMetricsEndpoints"]
    }
    served = {
        port["name"]: one["spec"]["template"]["metadata"]["labels"]
        for one in objects
        if one["kind"] == "Deployment"
        for container in one["spec"]["template"]["spec"]["containers"]
        for port in container["ports"]
        if port["containerPort"] == 8081
    }
    assert scraped == set(served)
    selected = monitor["spec"]["selector"]["matchLabels"].items()
    assert all(selected <= labels.items() for labels in served.values())


@pytest.mark.parametrize("own", ["", "prometheus-token"])
def test_prometheus_operator_and_gateway_share_a_token(helm: Path, own: str) -> None:
    chosen = f"monitoring.podMonitor=true,monitoring.existingSecret={own}"
    objects = render(helm, "values.yaml", "--set", chosen)
    (monitor,) = [one for one in objects if one["kind"] == "PodMonitor"]
    name = own or "vdi-metrics"
    for endpoint in monitor["spec"]["podMetricsEndpoints"]:
        assert endpoint["authorization"] == {"credentials": {"name": name, "key": "token"}}
    for one in (one for one in objects if one["kind"] == "Deployment"):
        pod = one["spec"]["template"]["spec"]
        (volume,) = [volume for volume in pod["volumes"] if volume["name"] == "metrics-token"]
        assert (volume["secret"]["secretName"], volume["secret"]["items"][0]["key"]) == (
            name,
            "token",
        )
        (mount,) = [
            mount
            for mount in pod["containers"][0]["volumeMounts"]
            if mount["name"] == "metrics-token"
        ]
        assert Path(mount["mountPath"]) / "token" == METRICS_TOKEN_FILE
    made = [one["kind"] for one in objects if one["metadata"]["name"] == "vdi-metrics"]
    assert made == ([] if own else ["ServiceAccount", "Secret"])
