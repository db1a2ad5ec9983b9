"""Makes charts/vdi/files/monitoring/dashboard.json, Grafana's dashboard.

Grafana's JSON is 20 lines a panel; here a panel is what differs: title, words, unit, queries.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

FILE = Path(__file__).parents[2] / "charts/vdi/files/monitoring/dashboard.json"
_DATASOURCE = {"type": "prometheus", "uid": "${datasource}"}


class Panel(NamedTuple):
    """One picture. `queries`: legend -> PromQL; `kind`: timeseries or stat."""

    title: str
    words: str
    queries: dict[str, str]
    unit: str = "short"
    width: int = 8
    kind: str = "timeseries"


def _quantiles(metric: str) -> dict[str, str]:
    rate = f"sum by (le) (rate({metric}_bucket[$__rate_interval]))"
    return {f"p{share}": f"histogram_quantile(0.{share}, {rate})" for share in (50, 95, 99)}


def _by(metric: str, *labels: str, function: str = "rate") -> dict[str, str]:
    legend = " ".join(f"{{{{{label}}}}}" for label in labels)
    return {legend: f"sum by ({', '.join(labels)}) ({function}({metric}[$__rate_interval]))"}


def _memory(name: str) -> str:
    """Of each GPU or part of one by MIG, once: the exporter may name each pod that shares it."""
    return f"max by (Hostname, gpu, GPU_I_ID) (DCGM_FI_DEV_{name} < 2 ^ 40)"


_USED, _FREE = _memory("FB_USED"), _memory("FB_FREE")
# As in files/monitoring/gpu-rules.yaml, which says why.
_BUSY = (
    "avg by (Hostname, gpu) (DCGM_FI_PROF_GR_ENGINE_ACTIVE <= 1)"
    " or avg by (Hostname, gpu) (DCGM_FI_DEV_GPU_UTIL <= 100) / 100"
)

ROWS: dict[str, list[Panel]] = {
    "Users and desktops": [
        Panel(
            "Running desktops", "", {"": 'sum(vdi_sessions{phase="Running"})'}, width=4, kind="stat"
        ),
        Panel("Waiting for capacity", "", {"": "max(vdi_waiting_sessions)"}, width=4, kind="stat"),
        Panel("Longest wait", "", {"": "max(vdi_longest_wait_seconds)"}, "s", 4, "stat"),
        Panel(
            "Failed",
            "They need an administrator.",
            {"": 'sum(vdi_sessions{phase="Failed"})'},
            width=4,
            kind="stat",
        ),
        Panel(
            "Starts under 30 s, last day",
            "The SLO is 99 %, over 30 days. A start counts from creation and includes the wait for"
            " capacity.",
            {
                "": (
                    'sum(increase(session_startup_seconds_bucket{le="30.0"}[1d]))'
                    " / sum(increase(session_startup_seconds_count[1d]))"
                )
            },
            "percentunit",
            8,
            "stat",
        ),
        Panel("Sessions by phase", "", {"{{phase}}": "sum by (phase) (vdi_sessions)"}),
        Panel(
            "Start-up",
            "From creation until the desktop responds.",
            _quantiles("session_startup_seconds"),
            "s",
        ),
        Panel(
            "Wait for capacity",
            "Of sessions that were admitted.",
            _quantiles("vdi_queue_wait_seconds"),
            "s",
        ),
        Panel(
            "Pools",
            "",
            {"{{pool}} {{state}}": "sum by (pool, state) (vdi_pool_desktops)"},
            width=24,
        ),
    ],
    "Latency (vdi session probe)": [
        Panel(
            "Inputs with effect within 50 ms, last day",
            "The SLO is 95 %. From a probe's key to the decoded picture that shows it.",
            {
                "{{template}}": (
                    "sum by (template)"
                    ' (increase(session_glass_to_glass_seconds_bucket{le="0.05"}[1d])) / sum by'
                    " (template) (increase(session_glass_to_glass_seconds_count[1d]))"
                )
            },
            "percentunit",
            kind="stat",
        ),
        Panel(
            "Input to picture", "All templates.", _quantiles("session_glass_to_glass_seconds"), "s"
        ),
        Panel(
            "First picture",
            "From the first request to the desktop.",
            _quantiles("session_first_picture_seconds"),
            "s",
        ),
        Panel(
            "Frames per second",
            "Of the last probe.",
            {"{{template}}": "avg by (template) (vdi_probe_frames_per_second)"},
        ),
        Panel(
            "Bitrate",
            "Of the last probe.",
            {"{{template}}": "avg by (template) (vdi_probe_bitrate_bits_per_second)"},
            "bps",
        ),
        Panel("Probes", "", _by("vdi_probes_total", "template", "outcome", function="increase")),
    ],
    "GPUs (NVIDIA DCGM exporter)": [
        Panel(
            "Busy, last 30 minutes",
            "All GPUs together, by the rules of this chart. SLO: over 80 % while sessions wait.",
            {"": "avg(vdi:gpu_utilization:avg30m)"},
            "percentunit",
            4,
            "stat",
        ),
        Panel(
            "Utilisation by node",
            "Of whole GPUs: with time-slicing, the usage of one desktop is unknown.",
            {"{{Hostname}}": f"avg by (Hostname) ({_BUSY})"},
            "percentunit",
            10,
        ),
        Panel(
            "Memory by GPU",
            "Shared by all desktops of a GPU; slicing does not limit it.",
            {"{{Hostname}} GPU {{gpu}} {{GPU_I_ID}}": f"{_USED} / ({_USED} + {_FREE})"},
            "percentunit",
            10,
        ),
    ],
    "Operator": [
        Panel("Leader", "Exactly one of the replicas.", {"{{pod}}": "vdi_leader"}),
        Panel("Reconciles", "", _by("vdi_reconciles_total", "controller", "outcome"), "ops"),
        Panel("Reconcile", "", _quantiles("vdi_reconcile_seconds"), "s"),
        Panel(
            "Requests to the API server",
            "Status 0: no response.",
            _by("vdi_api_requests_total", "method", "status"),
            "reqps",
        ),
        Panel(
            "Keys in the work queue",
            "",
            {"{{controller}}": "sum by (controller) (vdi_workqueue_depth)"},
        ),
        Panel("Objects in the caches", "", {"{{kind}}": "max by (kind) (vdi_cache_objects)"}),
    ],
    "Gateway": [
        Panel("Requests", "", _by("vdi_gateway_requests_total", "code"), "reqps"),
        Panel("Checks at the edge", "", _quantiles("vdi_gateway_verify_seconds"), "s"),
        Panel(
            "Checks a minute, and running desktops",
            "Each page that is open is checked; none, while people work, means that requests do not"
            " get so far.",
            {
                "checks": "60 * sum(rate(vdi_gateway_verifications_total[$__rate_interval]))",
                "running": 'sum(vdi_sessions{phase="Running"})',
            },
        ),
        Panel(
            "Dependencies",
            "0: the last call failed.",
            {"{{dependency}}": "min by (dependency) (vdi_gateway_dependency_up)"},
        ),
        Panel(
            "Logins", "", _by("vdi_gateway_logins_total", "source", "outcome", function="increase")
        ),
        Panel("Live pages", "Streams of events to browsers.", {"": "sum(vdi_gateway_sse_streams)"}),
        Panel("History behind", "", {"": "max(vdi_gateway_recorder_lag_seconds)"}, "s"),
        Panel(
            "Actions of users",
            "",
            _by("vdi_gateway_actions_total", "action", "outcome", function="increase"),
        ),
    ],
}


def build() -> dict[str, Any]:
    panels: list[dict[str, Any]] = []
    y = 0
    for title, row in ROWS.items():
        panels.append(
            _place(
                {"type": "row", "title": title, "collapsed": False, "panels": []},
                len(panels),
                0,
                y,
                24,
                1,
            )
        )
        y += 1
        x = height = 0
        for panel in row:
            if x + panel.width > 24:
                x, y = 0, y + height
            height = 4 if panel.kind == "stat" else 8
            panels.append(_place(_panel(panel), len(panels), x, y, panel.width, height))
            x += panel.width
        y += height
    datasource = {
        "name": "datasource",
        "label": "Prometheus",
        "type": "datasource",
        "query": "prometheus",
    }
    return {
        "uid": "vdi-overview",
        "title": "Desktops on Kubernetes",
        "tags": ["vdi"],
        "schemaVersion": 39,
        "editable": True,
        "refresh": "30s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {"list": [datasource]},
        "panels": panels,
    }


def _place(
    panel: dict[str, Any], number: int, x: int, y: int, width: int, height: int
) -> dict[str, Any]:
    return {"id": number + 1, **panel, "gridPos": {"x": x, "y": y, "w": width, "h": height}}


def _panel(panel: Panel) -> dict[str, Any]:
    targets = [
        {
            "refId": chr(ord("A") + number),
            "datasource": _DATASOURCE,
            "expr": query,
            "legendFormat": legend,
        }
        for number, (legend, query) in enumerate(panel.queries.items())
    ]
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.words,
        "datasource": _DATASOURCE,
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "targets": targets,
    }


def text() -> str:
    return json.dumps(build(), indent=1) + "\n"
