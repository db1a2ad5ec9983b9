"""The one spelling in which users and groups are compared and stored. Pure."""

_SMALL = str.maketrans("ABCDEFGHIJKLMNOPQRSTUVWXYZ", "abcdefghijklmnopqrstuvwxyz")


def normal_name(text: str) -> str:
    """The name of a user or group: ASCII letters in lower case, nothing else changed.

    Unicode's own folding makes two names one (the Kelvin sign becomes a k), and whoever may choose the other one could
    borrow the first.
    """
    return text.strip().translate(_SMALL)
