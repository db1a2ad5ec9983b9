"""Text from outside that is safe to show: control, direction and other format characters become visible escapes.

Used wherever text that somebody else wrote reaches a person: the terminal, pages, logs and status fields.
"""

import unicodedata


def is_printable(text: str, keep: str = "") -> bool:
    """Whether every character shows something or is a space; those in `keep` are allowed too."""
    for character in keep:
        text = text.replace(character, "")
    return text.isprintable() or all(map(_shows, text))


def escape(text: str, keep: str = "") -> str:
    r"""The text with each character that is not printable as `\uNNNN`, except those in `keep`.

    The escapes are those of JSON, above U+FFFF as two: JSON stays JSON, with the same values. Escaping twice changes
    nothing more.
    """
    if is_printable(text, keep):
        return text
    return "".join(character if character in keep or _shows(character) else _escaped(character) for character in text)


def _shows(character: str) -> bool:
    # Spaces such as the ideographic one are not printable to Python, and harmless.
    return character.isprintable() or unicodedata.category(character) == "Zs"


def _escaped(character: str) -> str:
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[at : at + 2].hex()}" for at in range(0, len(units), 2))
