"""The CSRF token of the gateway's pages."""

import re


def csrf_of(page: str) -> str:
    """The token in a page's first form, or in its head."""
    found = re.search(r'name="csrf(?:-token)?" (?:value|content)="([^"]+)"', page)
    assert found, f"no form in {page[:500]}"
    return found[1]
