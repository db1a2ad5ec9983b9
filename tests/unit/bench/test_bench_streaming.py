from pathlib import Path
from typing import Any

import pytest

from bench import agent, first_picture
from bench.podload import Load, read
from bench.streaming import main
from bench.streaming_report import OURS, PLAIN, RECORDED, compare, delays, lost, table, verdicts
from vdi.devcluster.machine import CgroupMount

UID = "6a1e"


def figures(ours: float = 40.0, plain: float = 39.0) -> dict[str, Any]:
    keys = [
        {"way": way, "size": size, "round": 1, "ms": base + number}
        for size in ("1280x720", "1920x1080")
        for way, base in ((OURS, ours), (PLAIN, plain))
        for number in range(10)
    ]
    load = {
        "what": "at rest",
        "seconds": 10.0,
        "pod_cpu_s": 1.5,
        "traefik_cpu_s": 0.5,
        "working_set_mib": 480.2,
    }
    return {
        "machine": {"cpus": 2, "kernel": "6", "busy_percent": 3.0},
        "photons": keys,
        "round_trips": {OURS: [0.9, 1.1], PLAIN: [0.4, 0.5]},
        "loads": [
            {**load, "frames": None},
            {**load, "what": "moving", "pod_cpu_s": 9.5, "frames": 300},
        ],
    }


def cells(text: str, start: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_comparison_has_both_the_difference_and_the_ratio() -> None:
    middle, slow = compare(
        "delay", [float(n) for n in range(1, 101)], [float(n) for n in range(11, 111)]
    )
    assert middle == ["delay, p50, ms", "100 + 100", "50.0", "60.0", "-10.0", "0.83"]
    assert slow == ["delay, p95, ms", "100 + 100", "95.0", "105.0", "-10.0", "0.90"]


def test_missing_measurement_is_not_compared() -> None:
    assert compare("delay", [], [1.0])[0][2:] == ["-"] * 4


def test_goals_compare_p95_and_added_latency() -> None:
    assert [line[:6] for line in verdicts(figures())] == ["met   "] * 3
    assert [line[:6] for line in verdicts(figures(ours=42.0))] == ["MISSED"] * 3
    assert [line[:6] for line in verdicts(figures(ours=41.0, plain=40.0))] == [
        "MISSED",
        "met   ",
        "met   ",
    ]


def test_goals_of_recording_and_rest_compare_with_the_same_desktop_unrecorded() -> None:
    measured = figures()
    measured["photons"] = [
        {"way": way, "size": "1280x720", "round": 1, "ms": ms}
        for way, ms in ((OURS, 20.0), (RECORDED, 26.0))
    ]
    load = {"seconds": 10.0, "traefik_cpu_s": 0.0, "frames": None}
    measured["loads"] = [
        {**load, "what": what, "pod_cpu_s": cpu, "working_set_mib": mib}
        for what, cpu, mib in (
            ("nobody connected", 0.1, 240.0),
            ("watched", 1.0, 300.0),
            ("recorded, nobody connected", 0.3, 300.0),
            ("recorded, watched", 1.3, 340.0),
        )
    ]
    assert verdicts(measured)[1:] == [
        "met     nobody connected: 240 MiB, at most 240 wanted",
        "met     recording, nobody connected: +0.02 cores and +60 MiB, at most 0.03 and 60 wanted",
        "MISSED  recording, watched: 1.30 of the CPU, at most 1.2 wanted",
        "MISSED  recording adds 6.0 ms to a key at 1280x720, p95: at most 5 wanted",
    ]


def test_goals_of_the_first_picture_are_met_by_the_median() -> None:
    measured = [{"way": "vdi", "picture_s": seconds} for seconds in (3.0, 3.9, 9.0)]
    measured += [{"way": "from a pool", "picture_s": seconds} for seconds in (0.5, 1.0, 1.1)]
    assert [line.split()[0] for line in first_picture.verdicts(measured)] == [
        "met",
        "MISSED",
        "met",
    ]


def test_a_key_without_a_letter_is_counted_and_in_no_percentile() -> None:
    measured = figures()
    measured["photons"][0]["ms"] = None
    assert lost(measured) == 1
    assert cells(delays(measured), "input to photon, 1280x720, p50")[0] == "9 + 10"
    assert "1 of 40 keys" in table(measured)


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_load_of_a_pod_from_cgroups_of_version_1(tmp_path: Path) -> None:
    inside = Path("vdi-demo/kubepods/burstable") / f"pod{UID}"
    write(tmp_path / "cpuacct" / inside, cpuacct__usage="2500000000\n")
    memory = {
        "memory__usage_in_bytes": f"{500 << 20}\n",
        "memory__stat": f"cache 7\ntotal_inactive_file {20 << 20}\n",
    }
    write(tmp_path / "memory" / inside, **memory)
    write(tmp_path / "unified" / inside, cpu__stat="usage_usec 1\n")
    mounts = [CgroupMount(str(tmp_path / "unified"), v2=True)]
    mounts += [
        CgroupMount(str(tmp_path / name), v2=False, controllers=(name,))
        for name in ("cpuacct", "memory")
    ]
    assert read(mounts, "demo", UID) == Load(2.5, 480.0)


def test_the_load_of_a_pod_from_cgroups_of_version_2(tmp_path: Path) -> None:
    memory = {
        "memory__current": f"{500 << 20}\n",
        "memory__stat": f"anon 7\ninactive_file {20 << 20}\n",
    }
    write(
        tmp_path / "vdi-demo" / f"pod{UID}", cpu__stat="usage_usec 2500000\nuser_usec 1\n", **memory
    )
    assert read([CgroupMount(str(tmp_path), v2=True)], "demo", UID) == Load(2.5, 480.0)


def test_a_pod_without_a_cgroup_is_an_error_and_not_a_zero(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no cgroup"):
        read([CgroupMount(str(tmp_path), v2=True)], "demo", UID)


@pytest.mark.parametrize(
    ("bench", "words"), [(main, []), (first_picture.main, []), (agent.main, ["--demo"])]
)
def test_missing_cluster_names_make_demo(
    bench: Any,
    words: list[str],
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for variable in ("VDI_STATE", "VDI_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert bench(words) == 3
    assert "make demo" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("bench", "option"),
    [
        (first_picture.main, "-n"),
        *((main, option) for option in ("--keys", "--rounds", "--pings", "--seconds")),
    ],
)
def test_number_below_one_is_refused(
    bench: Any, option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        bench([option, "0"])
    assert "0: allowed: 1 or more" in capsys.readouterr().err
