"""Rules for fields of the CRDs: descriptions for people, and OpenAPI and CEL for the API server,
each written once.

The structs carry these in `Annotated[..., doc(...)]`; `vdi.api.crd` turns them into the CRDs. All
of it goes through `extra_json_schema`, never through msgspec's own constraints: an object that the
API server has stored is always decoded, whatever a later version forbids.
"""

from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from vdi.printable import BLANK

if TYPE_CHECKING:
    Quantity = str
else:
    Quantity = str | int
"""A Kubernetes quantity. YAML writers say `cpu: 2` as often as `cpu: "2"`; `quantities_as_text` makes both a string."""


class Rule(NamedTuple):
    """One CEL rule: what must hold, what is said when it does not, and the CEL that says it with
    the value in it.
    """

    rule: str
    message: str
    message_expression: str = ""
    field_path: str = ""

    def as_schema(self) -> dict[str, str]:
        """The rule as an entry of `x-kubernetes-validations`; `message` is the fallback for a value
        of many lines.
        """
        entries = {
            "rule": self.rule,
            "message": self.message,
            "messageExpression": self.message_expression,
            "fieldPath": self.field_path,
        }
        return {key: text for key, text in entries.items() if text}


def must_be(what: str, cel: str, *, value: str = "self") -> Rule:
    """A rule on a single value: refused with "'VALUE' is not WHAT". `value` is the CEL for its
    text.

    That is `self` for text: the API server reckons the cost of a rule before it accepts a CRD, and
    does not know how long a `string(...)` may become.
    """
    return Rule(cel, f"must be {what}", f'"\'" + {value} + "\' is not {what}"')


def stays(advice: str) -> Rule:
    """A rule on a field that is fixed once the object exists."""
    return Rule(
        "self == oldSelf",
        f"can't be changed; {advice}",
        f'"can\'t be changed from \'" + oldSelf + "\' to \'" + self + "\'; {advice}"',
    )


def default_within_maximum(default: str, maximum: str) -> Rule:
    """`default` is not more than `maximum`. Silent where one of them is no quantity: the field's
    own rule says that.
    """
    given, most = f"string(self.{default})", f"string(self.{maximum})"
    return Rule(
        f"!has(self.{maximum}) || !isQuantity({given}) || !isQuantity({most}) || "
        f"quantity({given}).compareTo(quantity({most})) <= 0",
        f"{default} must not be more than {maximum}",
        f'"{default} is \'" + {given} + "\', more than {maximum} \'" + {most} + "\'"',
        f".{default}",
    )


def doc(description: str, *rules: Rule, list_key: str = "", **schema: Any) -> msgspec.Meta:
    """A field's description, CEL rules and OpenAPI keywords (`maxLength=63`); `list_key`: a list is
    a map by it.
    """
    if rules:
        schema["x-kubernetes-validations"] = [rule.as_schema() for rule in rules]
    if list_key:
        schema |= {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": [list_key]}
    return msgspec.Meta(description=description, extra_json_schema=schema)


def quantities_as_text(struct: msgspec.Struct, *fields: str) -> None:
    """Turn quantities that were written as YAML integers into strings; for `__post_init__`."""
    for field in fields:
        value = getattr(struct, field)
        if isinstance(value, int):
            setattr(struct, field, str(value))


def _at_least(minimum: str, what: str) -> Rule:
    text = "string(self)"
    return must_be(
        what,
        f"isQuantity({text}) && quantity({text}).compareTo(quantity('{minimum}')) >= 0",
        value=text,
    )


_SUBDOMAIN = r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?(\\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*$"
_PERIOD = "^([0-9]{1,6}h)?([0-9]{1,6}m)?([0-9]{1,6}s)?$"

EMAIL = must_be(
    "an e-mail address such as alice@example.com", r"self.matches('^\\S+@\\S+\\.\\S+$')"
)
# Blank characters, all variation selectors, and the replacement characters of text that could not
# be decoded.
INVISIBLE = BLANK + r"\ufe0e\ufe0f\ufffc\ufffd"
# The message does not repeat the value, which could hide or reverse the text around it. So does
# PRINTABLE's.
VISIBLE = Rule(
    r"!self.matches('[\\p{C}\\p{Z}" + INVISIBLE + "]')",
    "must have only visible characters: no space, control, direction, zero-width or private-use"
    " characters",
)
# Not \p{C}: newer regular expressions count characters in it that a later Unicode has, such as new
# emoji.
_UNPRINTABLE = r"\\p{Cc}\\p{Cf}\\p{Co}\\p{Zl}\\p{Zp}"
PRINTABLE = Rule(
    f"!self.matches('[{_UNPRINTABLE}]')",
    "must have only printable characters: no new line, control, direction, zero-width or"
    " private-use characters",
)
PRINTABLE_LINES = Rule(
    rf"self.matches('^([^{_UNPRINTABLE}]|[\\n\\t])*$')",
    "must have only printable characters, new lines and tabs: no control, direction, zero-width or"
    " private-use characters",
)
DURATION = must_be(
    "a duration above zero in hours, minutes and seconds, such as 8h, 30m or 1h30m",
    f"self.matches('{_PERIOD}') && self != '' && duration(self) > duration('0s')",
)
MEMORY = _at_least("1Mi", "an amount of at least 1Mi, such as 4Gi or 512Mi")
# Less ends every desktop at its start, or at the resize of a running one.
DESKTOP_MEMORY = _at_least("64Mi", "an amount of at least 64Mi, such as 4Gi or 512Mi")
CPU = _at_least("1m", "a number of CPUs of at least 1m, such as 2 or 500m")
HOST_LABEL = must_be(
    "a host label: lower-case letters, digits and inner hyphens, such as alice-2",
    "self.matches('^[a-z0-9]([a-z0-9-]*[a-z0-9])?$')",
)
NOT_A_KEYED_LABEL = must_be(
    "a label without a hash such as -5tq2mzk4 at its end, which the operator adds where there is no"
    " hostname",
    "!self.matches('-[2-7][a-z2-7]{7}$')",
)
NOT_ENCODED = must_be(
    "a label without -- as its third and fourth characters, which marks encoded names (xn--...)",
    "!self.matches('^..--')",
)
OBJECT_NAME = must_be(
    "the name of an object: lower-case letters, digits, inner hyphens and dots, such as"
    " ubuntu-22.04",
    f"self.matches('{_SUBDOMAIN}')",
)
ABSOLUTE_PATH = must_be(
    "an absolute path below / without colons, such as /home/user",
    f"self.matches('^(/[^/:{_UNPRINTABLE}]+)+/?$')",
)
_FOLDER = rf"([^/{{}}{_UNPRINTABLE}]|[{{](user|group)[}}])+"
SUB_PATH = must_be(
    "a path inside the volume such as teams/{group} or home/{user}: no / at its ends, no .. and no"
    " braces but {user} and {group}",
    f"self.matches('^{_FOLDER}(/{_FOLDER})*$') && !('/' + self + '/').matches('/[.]{{1,2}}/')",
)
NOT_OURS = must_be(
    "a unique name: every desktop has volumes named home and shm", "!(self in ['home', 'shm'])"
)
NOT_SHARED_MEMORY = Rule(
    "self != '/dev/shm'", "must not be /dev/shm, which every desktop already has (shmSize)"
)
NOT_THE_AGENTS = Rule("self != 8082", "must not be 8082, the port of the agent in each desktop")
URL_PATH = must_be(
    "the path of a URL without spaces, such as /api/health", "self.matches('^/[!-~]*$')"
)
ENV_NAME = must_be(
    "the name of an environment variable: letters, digits, '_', '-' and '.', not starting with a"
    " digit",
    "self.matches('^[-._a-zA-Z][-._a-zA-Z0-9]*$')",
)
IMAGE = must_be(
    "the name of a container image, such as registry.example.com/desktop:1.0",
    "self.matches('^[!-.0-9;-?A-~][!-~]*$')",
)
WORDS = Rule(
    "self.all(word, word != '')",
    "must be a program and its arguments, such as [firefox-esr, --new-tab], none empty",
)
KEYBOARD_LAYOUT = must_be(
    "a layout of setxkbmap, or up to four with commas between, such as de or us,ru",
    "self.matches('^[A-Za-z0-9_-]+(,[A-Za-z0-9_-]+){0,3}$')",
)
KEYBOARD_VARIANT = must_be(
    "a variant of setxkbmap, or one for each layout with commas between, such as nodeadkeys or"
    " ,phonetic",
    "self != '' && self.matches('^[A-Za-z0-9_-]*(,[A-Za-z0-9_-]*){0,3}$')",
)


def _cron_field(value: str) -> str:
    """Pattern of one field: `*`, values, ranges and steps."""
    term = f"([*]|{value}(-{value})?)(/[1-9][0-9]?)?"
    return f"{term}(,{term})*"


_CRON = " +".join(
    _cron_field(value)
    for value in (
        "[0-5]?[0-9]",
        "([01]?[0-9]|2[0-3])",
        "(0?[1-9]|[12][0-9]|3[01])",
        "(0?[1-9]|1[0-2]|JAN|FEB|MAR|APR|MAY|JUN|JUL|AUG|SEP|OCT|NOV|DEC)",
        "([0-7]|SUN|MON|TUE|WED|THU|FRI|SAT)",
    )
)
CRON = must_be(
    "five fields as in cron: minute, hour, day of the month, month, day of the week, such as 0 18 *"
    " * MON-FRI",
    f"self.matches('^{_CRON}$')",
)
TIME_OF_DAY = must_be(
    "a time of day from 00:00 to 23:59, such as 08:30",
    "self.matches('^([01][0-9]|2[0-3]):[0-5][0-9]$')",
)
TIME_ZONE = must_be(
    "a time zone such as Europe/Berlin or Etc/UTC",
    "self.matches('^[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z0-9_+-]+)*$') && self != 'Local'",
)


# Fields of one kind, with the limits that all of them have.


def object_name(description: str, *rules: Rule) -> msgspec.Meta:
    """The name of a Kubernetes object."""
    return doc(description, OBJECT_NAME, *rules, minLength=1, maxLength=253)


def quantity(description: str, rule: Rule) -> msgspec.Meta:
    """A quantity that `rule` (MEMORY, DESKTOP_MEMORY or CPU) limits."""
    return doc(description, rule, maxLength=32)


def duration(description: str) -> msgspec.Meta:
    """A length of time such as `8h`."""
    return doc(description, DURATION, maxLength=32)


def instant(description: str) -> msgspec.Meta:
    """A point in time, RFC 3339."""
    return doc(description, format="date-time")


def explanation(description: str) -> msgspec.Meta:
    """A text for people in a status, which may have several lines."""
    return doc(description, PRINTABLE_LINES, maxLength=32768)
