import ast
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw

from bench import testcard
from bench.photon import Patch, find_patch
from bench.plain import LABEL, node_port, plain_pod
from bench.podload import Load, read
from bench.streaming import main
from bench.streaming_report import (
    OURS,
    PLAIN,
    WAYLAND,
    compare,
    cores,
    delays,
    displays,
    loads,
    lost,
    per_core,
    table,
    verdicts,
)
from vdi.devcluster.machine import CgroupMount

UID = "6a1e"


def figures(ours: float = 40.0, plain: float = 39.0) -> dict[str, Any]:
    keys = [
        {"way": way, "size": size, "round": 1, "ms": base + number}
        for size in ("1280x720", "1920x1080")
        for way, base in ((OURS, ours), (PLAIN, plain))
        for number in range(10)
    ]
    load = {"what": "at rest", "seconds": 10.0, "pod_cpu_s": 1.5, "traefik_cpu_s": 0.5, "working_set_mib": 480.2}
    return {
        "machine": {"cpus": 2, "kernel": "6", "busy_percent": 3.0},
        "photons": keys,
        "round_trips": {OURS: [0.9, 1.1], PLAIN: [0.4, 0.5]},
        "loads": [{**load, "frames": None}, {**load, "what": "moving", "pod_cpu_s": 9.5, "frames": 300}],
    }


def cells(text: str, start: str) -> list[str]:
    [line] = [line for line in text.splitlines() if line.startswith(f"| {start}")]
    return [cell.strip() for cell in line.strip("|").split("|")][1:]


def test_a_comparison_has_both_the_difference_and_the_ratio() -> None:
    middle, slow = compare("delay", [float(n) for n in range(1, 101)], [float(n) for n in range(11, 111)])
    assert middle == ["delay, p50, ms", "100 + 100", "50.0", "60.0", "-10.0", "0.83"]
    assert slow == ["delay, p95, ms", "100 + 100", "95.0", "105.0", "-10.0", "0.90"]


def test_what_was_not_measured_is_not_compared() -> None:
    assert compare("delay", [], [1.0])[0][2:] == ["-"] * 4


def test_the_table_of_delays_keeps_sizes_apart_and_shows_the_way_alone() -> None:
    text = delays(figures())
    assert cells(text, "input to photon, 1280x720, p50") == ["10 + 10", "44.0", "43.0", "+1.0", "1.02"]
    assert cells(text, "input to photon, 1920x1080, p95") == ["10 + 10", "49.0", "48.0", "+1.0", "1.02"]
    assert cells(text, "round trip of a WebSocket ping, p50") == ["2 + 2", "0.9", "0.4", "+0.5", "2.25"]


def test_wayland_stands_beside_x11_where_it_was_measured() -> None:
    measured = figures()
    assert displays(measured) == ""
    keys = [{"way": WAYLAND, "size": "1280x720", "round": 1, "ms": 46.0 + number} for number in range(10)]
    measured["photons"] += keys
    assert cells(displays(measured), "input to photon, 1280x720, p50") == ["10 + 10", "50.0", "44.0", "+6.0", "1.14"]
    assert displays(measured) in table(measured)


def test_sessions_per_core_count_the_pod_and_traefik() -> None:
    rest = figures()["loads"][0]
    assert cores(rest) == pytest.approx(0.2)
    assert per_core(rest) == pytest.approx(5.0)
    text = loads(figures())
    assert cells(text, "at rest") == ["0.150", "0.050", "-", "480", "1 / (0.150 + 0.050) = 5.0"]
    assert cells(text, "moving") == ["0.950", "0.050", "30.0", "480", "1 / (0.950 + 0.050) = 1.0"]


def test_the_aims_are_held_against_p95_and_against_what_the_way_adds() -> None:
    assert [line[:6] for line in verdicts(figures())] == ["met   "] * 3
    assert [line[:6] for line in verdicts(figures(ours=42.0))] == ["MISSED"] * 3
    assert [line[:6] for line in verdicts(figures(ours=41.0, plain=40.0))] == ["MISSED", "met   ", "met   "]


def test_a_key_without_a_letter_is_counted_and_in_no_percentile() -> None:
    measured = figures()
    measured["photons"][0]["ms"] = None
    assert lost(measured) == 1
    assert cells(delays(measured), "input to photon, 1280x720, p50")[0] == "9 + 10"
    assert "1 of 40 keys" in table(measured)


def picture(*boxes: tuple[int, int, int, int]) -> Image.Image:
    made = Image.new("RGB", (640, 400), (28, 36, 51))
    for box in boxes:
        ImageDraw.Draw(made).rectangle(box, fill=(216, 222, 233))
    return made


def test_a_letter_is_found_where_it_stands() -> None:
    assert find_patch(picture(), picture((100, 50, 107, 65))) == Patch(100, 50, 8, 16, 8 * 16 // 3)


@pytest.mark.parametrize("box", [(0, 0, 1, 1), (10, 10, 300, 20), (10, 10, 20, 200)])
def test_what_is_too_small_or_too_large_is_no_letter(box: tuple[int, int, int, int]) -> None:
    assert find_patch(picture(), picture(box)) is None


def test_a_letter_goes_from_where_it_came_and_a_clock_does_not() -> None:
    letter = find_patch(picture(), picture((100, 50, 107, 65)))
    assert letter is not None
    assert letter.is_near(find_patch(picture((102, 50, 108, 64)), picture()))
    for other in (None, find_patch(picture(), picture((1200, 700, 1207, 715)))):
        assert not letter.is_near(other)


def test_two_equal_pictures_show_no_letter() -> None:
    assert find_patch(picture(), picture()) is None


def a_pod() -> dict[str, Any]:
    master = {"secretKeyRef": {"name": "stream-auth", "key": "passwordSha256"}}
    desktop = {
        "name": "desktop",
        "image": "localhost/vdi/desktop:dev",
        "ports": [{"name": "http", "containerPort": 8080}, {"name": "agent", "containerPort": 8082}],
        "env": [
            {"name": "SELKIES_ENABLE_BASIC_AUTH", "value": "false"},
            {"name": "VDI_MASTER_TOKEN_SHA256", "valueFrom": master},
        ],
        "resources": {"limits": {"cpu": "1"}},
    }
    home = {"name": "home", "persistentVolumeClaim": {"claimName": "home-bench"}}
    shm = {"name": "shm", "emptyDir": {"medium": "Memory"}}
    spec = {"containers": [desktop], "volumes": [shm, home], "nodeName": "n1"}
    labels = {"vdi.kasm.io/session": "stream"}
    return {"metadata": {"name": "stream", "labels": labels, "ownerReferences": [{}]}, "spec": spec}


def test_the_plain_desktop_is_the_same_without_door_owner_and_home() -> None:
    pod = a_pod()
    plain = plain_pod(pod, "stream-plain")
    assert plain["metadata"] == {"name": "stream-plain", "namespace": "vdi-sessions", "labels": {LABEL: "stream-plain"}}
    [desktop], [ours] = plain["spec"]["containers"], pod["spec"]["containers"]
    assert {key: desktop[key] for key in ("image", "ports", "resources")} == {
        key: ours[key] for key in ("image", "ports", "resources")
    }
    assert [variable["name"] for variable in desktop["env"]] == [
        "SELKIES_ENABLE_BASIC_AUTH",
        "SELKIES_BASIC_AUTH_PASSWORD",
    ]
    assert plain["spec"]["volumes"][1] == {"name": "home", "emptyDir": {}}
    assert "nodeName" not in plain["spec"]
    assert len(ours["env"]) == 2, "the session's stays as it was"
    assert pod["spec"]["volumes"][1]["persistentVolumeClaim"]


def test_its_port_is_that_of_the_stream() -> None:
    service = node_port("stream-plain", plain_pod(a_pod(), "stream-plain"))
    assert service["spec"] == {"type": "NodePort", "selector": {LABEL: "stream-plain"}, "ports": [{"port": 8080}]}


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


def test_the_load_of_a_pod_from_cgroups_of_version_1(tmp_path: Path) -> None:
    inside = Path("vdi-demo/kubepods/burstable") / f"pod{UID}"
    write(tmp_path / "cpuacct" / inside, cpuacct__usage="2500000000\n")
    memory = {"memory__usage_in_bytes": f"{500 << 20}\n", "memory__stat": f"cache 7\ntotal_inactive_file {20 << 20}\n"}
    write(tmp_path / "memory" / inside, **memory)
    write(tmp_path / "unified" / inside, cpu__stat="usage_usec 1\n")
    mounts = [CgroupMount(str(tmp_path / "unified"), v2=True)]
    mounts += [CgroupMount(str(tmp_path / name), v2=False, controllers=(name,)) for name in ("cpuacct", "memory")]
    assert read(mounts, "demo", UID) == Load(2.5, 480.0)


def test_the_load_of_a_pod_from_cgroups_of_version_2(tmp_path: Path) -> None:
    memory = {"memory__current": f"{500 << 20}\n", "memory__stat": f"anon 7\ninactive_file {20 << 20}\n"}
    write(tmp_path / "vdi-demo" / f"pod{UID}", cpu__stat="usage_usec 2500000\nuser_usec 1\n", **memory)
    assert read([CgroupMount(str(tmp_path), v2=True)], "demo", UID) == Load(2.5, 480.0)


def test_a_pod_without_a_cgroup_is_an_error_and_not_a_zero(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="no cgroup"):
        read([CgroupMount(str(tmp_path), v2=True)], "demo", UID)


def test_every_phase_of_the_moving_picture_is_another_picture_of_the_same_size() -> None:
    pictures = {testcard.tile(phase) for phase in range(testcard.PHASES)}
    assert len(pictures) == testcard.PHASES
    assert {len(one) for one in pictures} == {4 * testcard.TILE**2}


def test_the_moving_picture_needs_nothing_but_the_standard_library() -> None:
    tree = ast.parse(Path(testcard.__file__).read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert imported == {"__future__", "ctypes", "math", "select", "sys", "time"}


def test_without_a_cluster_it_says_how_to_get_one(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in ("VDI_STATE", "VDI_CACHE"):
        monkeypatch.setenv(variable, str(tmp_path))
    assert main([]) == 3
    assert "make demo" in capsys.readouterr().err


@pytest.mark.parametrize("option", ["--keys", "--rounds", "--pings", "--seconds"])
def test_a_number_that_makes_no_sense_is_refused(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main([option, "0"])
    assert "0: allowed: 1 or more" in capsys.readouterr().err
