"""The demo's user keeps a password for as long as the cluster has the user."""

import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from vdi.demo import run
from vdi.demo.run import PeopleError, add_user, ready_user

YOU = "you@example.com"
Reset = Callable[[], None]


class Commands:
    """Stands in for `vdi gateway user`: remembers users, and what was typed."""

    def __init__(self) -> None:
        self.users: dict[str, str] = {}
        self.typed: list[tuple[str, ...]] = []
        self.seconds: set[float] = set()

    def __call__(self, _kubeconfig: Path, *words: str, stdin: str = "", seconds: float = 60.0) -> str:
        self.seconds.add(seconds)
        if words[0] == "ls":
            return "\n".join(self.users)
        self.typed.append(words)
        assert words[0] != "add" or words[1] not in self.users, "the real one refuses"
        self.users[words[1]] = stdin.strip()
        return ""


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> Commands:
    made = Commands()
    monkeypatch.setattr(run, "_run", made)
    return made


def test_the_password_is_the_same_the_next_time_and_no_one_is_logged_out(commands: Commands, tmp_path: Path) -> None:
    first = ready_user(tmp_path / "k", tmp_path, "https://portal.vdi.localhost", YOU)
    assert commands.users == {YOU: first.password}
    assert commands.typed == [("add", YOU, "--admin", "--password-stdin")]
    assert ready_user(tmp_path / "k", tmp_path, "https://portal.vdi.localhost", YOU) == first
    assert len(commands.typed) == 1, "another password would end everything that is open"


def test_a_user_who_was_removed_is_made_again_with_another_password(commands: Commands, tmp_path: Path) -> None:
    first = ready_user(tmp_path / "k", tmp_path, "p", YOU)
    commands.users.clear()
    again = ready_user(tmp_path / "k", tmp_path, "p", YOU)
    assert again.password != first.password
    assert commands.users == {YOU: again.password}


def test_a_lost_file_means_another_password_for_the_same_user(commands: Commands, tmp_path: Path) -> None:
    ready_user(tmp_path / "k", tmp_path, "p", YOU)
    (tmp_path / "portal-login.json").unlink()
    again = ready_user(tmp_path / "k", tmp_path, "p", YOU)
    assert commands.users == {YOU: again.password}
    assert commands.typed[-1] == ("passwd", YOU, "--password-stdin")


def test_the_password_is_for_its_owners_eyes(commands: Commands, tmp_path: Path) -> None:
    login = ready_user(tmp_path / "k", tmp_path, "p", YOU)
    assert stat.S_IMODE((tmp_path / "portal-login.json").stat().st_mode) == 0o600
    assert login.password not in repr(login)
    assert not any(login.password in word for words in commands.typed for word in words)


def test_on_a_slow_machine_each_command_may_take_longer(commands: Commands, tmp_path: Path) -> None:
    ready_user(tmp_path / "k", tmp_path, "p", YOU, timeout_factor=20)
    ready_user(tmp_path / "k", tmp_path, "p", YOU, timeout_factor=20)
    assert commands.seconds == {1200.0}


def test_what_the_command_says_is_said_on(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("{}")
    with pytest.raises(PeopleError, match="vdi gateway user ls"):
        add_user(tmp_path / "kubeconfig", YOU, "p")


def test_a_command_that_takes_too_long_names_the_setting(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text("{}")
    with pytest.raises(PeopleError, match=r"`vdi gateway user ls` did not end in 0\.01 s;.*VDI_TIMEOUT_FACTOR=10"):
        add_user(tmp_path / "kubeconfig", YOU, "p", seconds=0.01)
