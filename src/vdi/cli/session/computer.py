"""`vdi session computer`: words of a shell as an action of the REST API."""

from collections.abc import Mapping, Sequence
from typing import Any

from vdi.cli.errors import USAGE, CliError

# The kind of action of the API and the arguments, by the word for it.
_WORDS: Mapping[str, tuple[str, str]] = {
    "screenshot": ("screenshot", ""),
    "click": ("left_click", "X Y"),
    "right-click": ("right_click", "X Y"),
    "double-click": ("double_click", "X Y"),
    "move": ("mouse_move", "X Y"),
    "scroll": ("scroll", "X Y DIRECTION AMOUNT"),
    "type": ("type", "TEXT"),
    "key": ("key", "KEYS"),
}
ACTIONS = ", ".join(f"{word} {arguments}".strip() for word, (_, arguments) in _WORDS.items())


def parse_action(words: Sequence[str]) -> dict[str, Any]:
    """The body of the request. Raises CliError."""
    kind, arguments = _WORDS.get(words[0], ("", ""))
    if not kind or len(words) - 1 != len(arguments.split()):
        raise CliError(f"{' '.join(words)[:100]!r} is not an action; allowed: {ACTIONS}", USAGE)
    body: dict[str, Any] = {"action": kind}
    if arguments.startswith("X Y"):
        body["coordinate"] = [_number("X", words[1]), _number("Y", words[2])]
    elif arguments:
        body["text"] = words[1]
    if kind == "scroll":
        body |= {"scroll_direction": words[3], "scroll_amount": _number("AMOUNT", words[4])}
    return body


def _number(name: str, text: str) -> int:
    if not text.isdecimal() or len(text) > 9:
        raise CliError(f"{name}: {text[:40]!r} is not a whole number of 0 or more", USAGE)
    return int(text)
