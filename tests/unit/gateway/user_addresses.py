"""Addresses of people, and what only looks like one."""

# The API server refuses these too (tests/cluster/test_crd_refusals.py).
HIDDEN = {
    "control": "bob\x07@example.com",
    "delete": "bob\x7f@example.com",
    "right to left override": "bob\u202e@example.com",
    "isolate": "bob\u2066@example.com",
    "zero-width space": "bob\u200b@example.com",
    "zero-width joiner": "bob\u200d@example.com",
    "soft hyphen": "bo\u00adb@example.com",
    "tag": "bob\U000e0061@example.com",
    "byte order mark": "bob\ufeff@example.com",
    "no-break space": "bo\u00a0b@example.com",
    "line separator": "bob\u2028@example.com",
    "private use": "bob\ue000@example.com",
    "Hangul filler": "bob\u3164@example.com",
    "braille blank": "bob\u2800@example.com",
    "variation selector": "bob\ufe0f@example.com",
    "grapheme joiner": "bob\u034f@example.com",
    "replacement": "bob\ufffd@example.com",
}
# These it cannot tell, or never gets.
UNDECIDABLE = {
    "lone surrogate": "bob\ud800@example.com",
    "unassigned": "bob\u0378@example.com",
    "not NFC": "zoe\u0308@example.com",
    "Kelvin sign": "\u212aim@example.com",
}
ORDINARY = (
    "alice@example.com",
    "first.last+tag@sub.example.co.uk",
    "o'neil_2@example-1.org",
    "zo\u00eb@example.com",
    "\u0438\u0432\u0430\u043d@\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444",
    "\u0905\u0936\u094b\u0915@example.com",
    "\u738b@example.com",
)
