"""A model of OpenAI drives a desktop, with the tool `computer`.

pip install vdi-kubernetes openai
VDI_SERVER=https://portal.vdi.example.com VDI_TOKEN=vdi_... MODEL=... python openai_loop.py DESKTOP "TASK"
"""

import base64
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from vdi.client import Desktop, HumanInControl

RETRY_SECONDS = 5
# Pixels of one click of the wheel.
WHEEL = 100
BUTTONS = {"left": "left", "right": "right", "wheel": "middle"}
KEYS = {
    "ENTER": "Return",
    "ESC": "Escape",
    "SPACE": "space",
    "BACKSPACE": "BackSpace",
    "DELETE": "Delete",
    "TAB": "Tab",
    "HOME": "Home",
    "END": "End",
    "PAGEUP": "Page_Up",
    "PAGEDOWN": "Page_Down",
    "ARROWUP": "Up",
    "ARROWDOWN": "Down",
    "ARROWLEFT": "Left",
    "ARROWRIGHT": "Right",
    "CMD": "super",
}
Ask = Callable[[list[Any], str | None], dict[str, Any]]


def ask(items: list[Any], previous: str | None) -> dict[str, Any]:
    """The model's response, with `id` and `output`. Replace it for another model."""
    from openai import OpenAI

    answer = OpenAI().responses.create(
        model=os.environ["MODEL"],
        tools=[{"type": "computer"}],
        input=items,
        previous_response_id=previous,
    )
    response: dict[str, Any] = answer.to_dict()
    return response


def act(desktop: Desktop, action: dict[str, Any]) -> None:
    """One action of a batch."""
    kind = action["type"]
    if kind == "click":
        button: Any = BUTTONS[action.get("button", "left")]
        desktop.click(action["x"], action["y"], button)
    elif kind == "double_click":
        desktop.double_click(action["x"], action["y"])
    elif kind == "move":
        desktop.move(action["x"], action["y"])
    elif kind == "drag":
        first, last = action["path"][0], action["path"][-1]
        desktop.drag((first["x"], first["y"]), (last["x"], last["y"]))
    elif kind == "scroll":
        at = (action["x"], action["y"])
        down, right = action["scroll_y"], action["scroll_x"]
        if down:
            desktop.scroll("down" if down > 0 else "up", clicks(down), at)
        if right:
            desktop.scroll("right" if right > 0 else "left", clicks(right), at)
    elif kind == "keypress":
        desktop.key("+".join(KEYS.get(key.upper(), key.lower()) for key in action["keys"]))
    elif kind == "type":
        desktop.type(action["text"])
    elif kind == "wait":
        desktop.act({"action": "wait", "duration": 2})
    elif kind != "screenshot":  # one follows each batch
        raise ValueError(f"unknown action {kind!r}")


def clicks(pixels: int) -> int:
    return min(100, max(1, abs(pixels) // WHEEL))


def when_free(do: Callable[[], Any]) -> Any:
    """The result, once no person is in control."""
    while True:
        try:
            return do()
        except HumanInControl:
            time.sleep(RETRY_SECONDS)


def answer(desktop: Desktop, call: dict[str, Any]) -> dict[str, Any]:
    """The screenshot after a batch of actions."""
    checks = call.get("pending_safety_checks") or []
    if checks:
        desktop.request_human(str(checks[0].get("message") or "Check the next step.")[:200])
        when_free(desktop.screenshot)
    for action in call["actions"]:
        when_free(lambda action=action: act(desktop, action))
    png = base64.b64encode(when_free(desktop.screenshot)).decode()
    return {
        "type": "computer_call_output",
        "call_id": call["call_id"],
        "acknowledged_safety_checks": checks,
        "output": {"type": "computer_screenshot", "image_url": f"data:image/png;base64,{png}"},
    }


def run(desktop: Desktop, task: str, ask: Ask = ask) -> dict[str, Any]:
    """The model's last response."""
    response = ask([{"role": "user", "content": task}], None)
    while calls := [item for item in response["output"] if item["type"] == "computer_call"]:
        response = ask([answer(desktop, call) for call in calls], response["id"])
    return response


if __name__ == "__main__":
    with Desktop.connect(sys.argv[1]) as desktop:
        print(run(desktop, sys.argv[2])["output"])
