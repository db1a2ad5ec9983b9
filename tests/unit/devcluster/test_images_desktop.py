"""The desktop container's first process: what it refuses, what it warns of, and how it fills an empty home."""

from collections.abc import Callable
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[3] / "images/desktop/rootfs/usr/local/bin/vdi-desktop"


@pytest.fixture(scope="module")
def desktop() -> ModuleType:
    """The script as a module."""
    loader = SourceFileLoader("vdi_desktop", str(SCRIPT))
    spec = spec_from_loader(loader.name, loader)
    assert spec is not None
    module = module_from_spec(spec)
    loader.exec_module(module)
    return module


@pytest.fixture
def environment(desktop: ModuleType) -> Callable[[dict[str, str]], dict[str, str]]:
    """Selkies' environment for a pod's."""

    def made(given: dict[str, str]) -> dict[str, str]:
        env: dict[str, str] = desktop.stream_environment({"SELKIES_BASIC_AUTH_PASSWORD": "x", **given})
        return env

    return made


def test_a_desktop_without_a_password_is_refused_in_words(
    desktop: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        desktop.stream_environment({})

    assert ended.value.code == 1
    assert "SELKIES_BASIC_AUTH_PASSWORD is not set" in capsys.readouterr().err


def test_a_token_does_for_a_password(desktop: ModuleType) -> None:
    assert desktop.stream_environment({"SELKIES_MASTER_TOKEN": "t"})["SELKIES_MASTER_TOKEN"] == "t"


def test_dangerous_defaults_are_off_and_no_third_party_relays(
    environment: Callable[[dict[str, str]], dict[str, str]],
) -> None:
    env = environment({})

    assert env["SELKIES_COMMAND_ENABLED"] == "false" and env["SELKIES_ENABLE_DUAL_MODE"] == "false"
    assert env["SELKIES_TURN_HOST"] == env["SELKIES_STUN_HOST"] == "localhost"


def test_what_the_pod_says_wins(environment: Callable[[dict[str, str]], dict[str, str]]) -> None:
    assert environment({"SELKIES_TURN_HOST": "turn.example"})["SELKIES_TURN_HOST"] == "turn.example"


@pytest.mark.parametrize(
    ("given", "kept", "warned"),
    [
        ("nvh264enc", "", True),
        ("vp9enc, jpeg", "jpeg", True),
        ("h264enc,jpeg", "h264enc,jpeg", False),
        ("openh264enc", "openh264enc", False),
    ],
)
def test_encoders_of_selkies_1_are_left_out_and_named(
    environment: Callable[[dict[str, str]], dict[str, str]],
    capsys: pytest.CaptureFixture[str],
    given: str,
    kept: str,
    warned: bool,
) -> None:
    assert environment({"SELKIES_ENCODER": given})["SELKIES_ENCODER"] == kept
    assert ("was a name of Selkies 1" in capsys.readouterr().err) is warned


def test_webrtc_without_a_relay_is_warned_of(
    environment: Callable[[dict[str, str]], dict[str, str]], capsys: pytest.CaptureFixture[str]
) -> None:
    environment({"SELKIES_MODE": "webrtc", "SELKIES_TURN_HOST": "turn.example"})
    assert capsys.readouterr().err == ""
    environment({"SELKIES_MODE": "webrtc"})
    assert "without SELKIES_TURN_HOST" in capsys.readouterr().err


def test_an_empty_home_is_filled_and_the_users_own_files_are_left(desktop: ModuleType, tmp_path: Path) -> None:
    skeleton, home = tmp_path / "skel", tmp_path / "home"
    (skeleton / ".config").mkdir(parents=True)
    (skeleton / ".config/one").write_text("ours")
    (skeleton / ".bashrc").write_text("ours")
    home.mkdir()
    (home / ".bashrc").write_text("mine")

    desktop.prepare_home(home, skeleton)

    assert (home / ".bashrc").read_text() == "mine"
    assert (home / ".config/one").read_text() == "ours"


def test_a_home_that_cannot_be_written_is_refused_in_words(
    desktop: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        desktop.prepare_home(tmp_path / "absent", tmp_path)

    assert f"HOME={tmp_path / 'absent'} can't be written by uid" in capsys.readouterr().err


def test_applications_do_not_see_the_streams_secrets(desktop: ModuleType) -> None:
    parts = desktop.Desktop({"SELKIES_BASIC_AUTH_PASSWORD": "x", "KUBERNETES_PORT": "y", "LANG": "C.UTF-8"})

    assert "x" in parts.stream_env.values()
    assert not {"x", "y"} & set(parts.env.values())
    assert parts.env["LANG"] == "C.UTF-8" and parts.env["XAUTHORITY"] == parts.stream_env["XAUTHORITY"]
