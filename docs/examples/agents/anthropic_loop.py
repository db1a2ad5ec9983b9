"""A model of Anthropic drives a desktop, with the tools of `computer_toolset_20260801`.

pip install vdi-kubernetes anthropic
VDI_SERVER=https://portal.vdi.example.com VDI_TOKEN=vdi_... MODEL=... python anthropic_loop.py DESKTOP "TASK"
"""

import base64
import os
import sys
from collections.abc import Callable
from typing import Any

from vdi.client import Desktop, Refused

TOOLS = [{"type": "computer_toolset_20260801"}]
Ask = Callable[[list[Any]], list[Any]]


def ask(messages: list[Any]) -> list[Any]:
    """The content blocks of the model's answer. Replace it for another model."""
    from anthropic import Anthropic

    answer = Anthropic().messages.create(
        model=os.environ["MODEL"], max_tokens=4096, messages=messages, tools=TOOLS
    )
    content: list[Any] = answer.to_dict()["content"]
    return content


def act(desktop: Desktop, use: dict[str, Any]) -> dict[str, Any]:
    """The result of one action."""
    result: dict[str, Any] = {"type": "tool_result", "tool_use_id": use["id"]}
    try:
        done = desktop.act({**use["input"], "action": use["name"]})
    except Refused as refused:  # such as HumanInControl: the model reads why
        return {**result, "is_error": True, "content": refused.message}
    if done.png is None:
        return {**result, "content": done.text or "Done."}
    data = base64.b64encode(done.png).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    return {**result, "content": [{"type": "image", "source": source}]}


def run(desktop: Desktop, task: str, ask: Ask = ask) -> list[Any]:
    """The conversation, when the model has no further action."""
    messages: list[Any] = [{"role": "user", "content": task}]
    while True:
        messages.append({"role": "assistant", "content": ask(messages)})
        uses = [block for block in messages[-1]["content"] if block["type"] == "tool_use"]
        if not uses:
            return messages
        results: list[Any] = []
        for use in uses:
            if results and results[-1].get("is_error"):  # a failure skips the turn's later actions
                skipped = "Skipped, as an earlier action failed."
                results.append(
                    {
                        "type": "tool_result",
                        "tool_use_id": use["id"],
                        "is_error": True,
                        "content": skipped,
                    }
                )
            else:
                results.append(act(desktop, use))
        messages.append({"role": "user", "content": results})


if __name__ == "__main__":
    with Desktop.connect(sys.argv[1]) as desktop:
        print(run(desktop, sys.argv[2])[-1]["content"])
