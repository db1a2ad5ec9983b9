"""Variants of the same behaviour: `make test` tries the first of them, `make test-all` and `make
unit-3.13` all.
"""

from collections.abc import Iterable

import pytest


def first_of(values: Iterable[object]) -> list[object]:
    """For `parametrize`: all but the first have the marker `long`. A tuple is the values of several
    parameters.
    """
    first, *others = values
    several = [value if isinstance(value, tuple) else (value,) for value in others]
    return [first, *(pytest.param(*value, marks=pytest.mark.long) for value in several)]
