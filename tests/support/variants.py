"""Variants of the same behaviour: `make test` tries the first of them, `make test-all` and `make unit-3.13` all."""

from collections.abc import Iterable

import pytest


def first_of(values: Iterable[object]) -> list[object]:
    """For `parametrize`: all but the first have the marker `long`."""
    first, *others = values
    return [first, *(pytest.param(value, marks=pytest.mark.long) for value in others)]
