"""`vdi session computer`: words of a shell as an action of the REST API."""

from collections.abc import Mapping, Sequence
from typing import Any

from vdi.cli.errors import USAGE, CliError

# The kind of action of the API and its arguments, by the word for it.
_WORDS: Mapping[str, str] = {
    "screenshot": "screenshot",
    "click": "left_click X Y",
    "right-click": "right_click X Y",
    "double-click": "double_click X Y",
    "move": "mouse_move X Y",
    "scroll": "scroll X Y DIRECTION AMOUNT",
    "type": "type TEXT",
    "key": "key TEXT",
}
ACTIONS = ", ".join(f"{word} {action.partition(' ')[2]}".strip() for word, action in _WORDS.items())


def parse_action(words: Sequence[str]) -> dict[str, Any]:
    """The body of the request. Raises CliError."""
    kind, *names = _WORDS.get(words[0], "").split(" ")
    if not kind or len(words) - 1 != len(names):
        raise CliError(f"{' '.join(words)[:100]!r} is not an action; allowed: {ACTIONS}", USAGE)
    given: dict[str, Any] = dict(zip(names, words[1:], strict=True))
    for name in given.keys() & {"X", "Y", "AMOUNT"}:
        if not given[name].isdecimal() or len(given[name]) > 9:
            raise CliError(
                f"{name}: {given[name][:40]!r} is not a whole number of 0 or more", USAGE
            )
        given[name] = int(given[name])
    body = {"action": kind} | ({"coordinate": [given["X"], given["Y"]]} if "X" in given else {})
    fields = {"TEXT": "text", "DIRECTION": "scroll_direction", "AMOUNT": "scroll_amount"}
    return body | {fields[name]: value for name, value in given.items() if name in fields}
