"""Text from outside that is safe to show: control, direction, format and blank characters become
visible escapes.

Used wherever text that somebody else wrote reaches a person: the terminal, pages, logs and status
fields.
"""

import functools
import re
import unicodedata

# Characters that show nothing and that Unicode still calls letters, marks or symbols: fillers, and
# variation selectors without those for emoji. For a character class of a regular expression.
BLANK = r"\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0d\uffa0\U000e0100-\U000e01ef"

_IS_BLANK = re.compile(f"[{BLANK}]").match
_MOST_CACHED = 4096


def is_printable(text: str, keep: str = "") -> bool:
    """Whether every character shows something or is a space; those in `keep` are allowed too."""
    return escape(text, keep) == text


def escape(text: str, keep: str = "") -> str:
    r"""The text with each character that is not printable as `\uNNNN`, except those in `keep`.

    The escapes are those of JSON, above U+FFFF as two: JSON stays JSON, with the same values.
    Escaping twice changes nothing more.
    """
    if text.isascii() and text.isprintable():  # nearly all of them
        return text
    return text.translate(_table(keep))


def shorten(text: str, longest: int) -> str:
    """The text, or its beginning with three dots: at most `longest` characters."""
    if len(text) <= longest:
        return text
    return f"{text[: longest - 3]}..."


def shorten_middle(text: str, longest: int) -> str:
    """The text, or its beginning and its end: the last words of an error are often its reason."""
    if len(text) <= longest:
        return text
    end = 2 * longest // 3
    return f"{text[: longest - end - 5]} ... {text[-end:]}"


def as_sentence(text: str, longest: int) -> str:
    """The text, shortened and with a full stop at its end; empty stays empty."""
    text = shorten(text, longest)
    if not text or text.endswith("."):
        return text
    return f"{text}."


class _Escapes(dict[int, str]):
    """The table of `str.translate`; a character is examined when it first occurs."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        shown = character if _shows(character) else _escaped(character)
        if len(self) < _MOST_CACHED:  # a text with all of Unicode would take 100 MB
            self[code] = shown
        return shown


@functools.cache
def _table(keep: str) -> _Escapes:
    return _Escapes({ord(character): character for character in keep})


def _shows(character: str) -> bool:
    # Spaces such as the ideographic one are not printable to Python, and harmless.
    return (character.isprintable() and not _IS_BLANK(character)) or unicodedata.category(
        character
    ) == "Zs"


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
