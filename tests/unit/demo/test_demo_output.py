"""What `vdi demo` prints for programs. The demo itself is played: `make machines` and its own tests run it."""

import json
from pathlib import Path
from typing import NoReturn

import pytest

from vdi.cli.main import main
from vdi.demo import run
from vdi.demo.browser import Login


def test_up_and_down_as_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    login = Login("https://portal.vdi.localhost:8443", "you@example.com", "secret-of-the-demo")
    url, picture = "https://demo.vdi.localhost:8443/", tmp_path / "demo.png"
    monkeypatch.setattr(run, "up", lambda *_, **__: run.Demo(tmp_path / "admin.conf", tmp_path / "bin", login))
    monkeypatch.setattr(run, "start_session", lambda *_, **__: url)
    monkeypatch.setattr(run, "take_picture", lambda *_, **__: None)
    monkeypatch.setattr(run, "down", lambda _: ["processes"])

    assert main(["demo", "up", "--screenshot", str(picture), "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "portal": login.portal,
        "user": login.user,
        "password": login.password,
        "desktop": {"session": run.SESSION, "url": url, "screenshot": str(picture)},
        "kubeconfig": str(tmp_path / "admin.conf"),
        "tools": str(tmp_path / "bin"),
    }
    assert main(["demo", "down", "-o", "json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"removed": ["processes"]}


def test_an_interrupted_demo_says_what_is_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object, **__: object) -> NoReturn:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "up", interrupt)
    assert main(["demo", "up", "--name", "two"]) == 130
    said = capsys.readouterr().err
    assert "a cluster that it has started keeps running until vdi demo down --name two." in said
