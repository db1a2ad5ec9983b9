"""Sizes of files in words."""

_UNITS = (("GiB", 1 << 30), ("MiB", 1 << 20))


def size_in_words(count: int) -> str:
    """`4.6 GiB`, `12.0 MiB`, `3 KiB`."""
    for unit, factor in _UNITS:
        if count >= factor:
            return f"{count / factor:.1f} {unit}"
    return f"{max(1, count >> 10)} KiB"
