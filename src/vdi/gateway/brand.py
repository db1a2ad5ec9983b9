"""Branding of the pages: name, logo, accent colour, texts at login. Pure.

Colours of text and buttons are derived from the accent colour, so that they are readable in light
and dark whatever was chosen: contrast of WCAG 2.2 AA (1.4.3).
"""

from dataclasses import dataclass

# Red, green, blue in sRGB, 0 to 1.
Colour = tuple[float, float, float]

_READABLE = 4.5
_STEP = 0.02
_WHITE, _BLACK = (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)
# The grounds of `portal.css` on which links stand with the least contrast: --sunken in light,
# --raised in dark.
_GROUND_LIGHT = (0xEE / 255, 0xF0 / 255, 0xF4 / 255)
_GROUND_DARK = (0x1C / 255, 0x22 / 255, 0x2B / 255)


@dataclass(frozen=True, slots=True)
class Brand:
    """Settings of the branding; an empty one is the default."""

    # VDI_BRAND_NAME: beside the logo, and in the titles of pages.
    name: str = "VDI"
    # VDI_BRAND_LOGO: a data:image/ URL.
    logo: str = ""
    # VDI_BRAND_ACCENT: #rrggbb; what buttons and links are coloured after.
    accent: str = ""
    # VDI_BRAND_BANNER: text above the login form.
    banner: str = ""
    # VDI_BRAND_TERMS: text that has to be accepted before each login.
    terms: str = ""
    # VDI_BRAND_SUPPORT_URL: https: or mailto:, at the foot of every page.
    support_url: str = ""


def stylesheet(brand: Brand) -> str:
    """The custom properties of `portal.css` that the brand's colour replaces; empty without one."""
    if not brand.accent:
        return ""
    chosen = _parse(brand.accent)
    strong = _until_readable(chosen, _WHITE, _BLACK)
    properties = {
        "accent": (
            _until_readable(chosen, _GROUND_LIGHT, _BLACK),
            _until_readable(chosen, _GROUND_DARK, _WHITE),
        ),
        "accent-strong": (strong, strong),
        "accent-hover": (_mix(strong, _BLACK, 0.15), _mix(strong, _BLACK, 0.15)),
        "accent-wash": (_mix(_WHITE, chosen, 0.1), _mix(_GROUND_DARK, chosen, 0.2)),
    }
    lines = (
        f"  --{name}: light-dark({_hex(light)}, {_hex(dark)});"
        for name, (light, dark) in properties.items()
    )
    return "\n".join((":root {", *lines, "}", ""))


def contrast(one: Colour, other: Colour) -> float:
    """The contrast ratio of WCAG 2.2: 1 to 21."""
    dark, light = sorted((_luminance(one), _luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def _parse(text: str) -> Colour:
    red, green, blue = (int(text[place : place + 2], 16) / 255 for place in (1, 3, 5))
    return red, green, blue


def _hex(colour: Colour) -> str:
    return "#" + "".join(f"{round(part * 255):02x}" for part in colour)


def _until_readable(colour: Colour, ground: Colour, towards: Colour) -> Colour:
    """The nearest mix of the colour with black or white that can be read on the ground, as bytes
    round it.
    """
    share = 0.0
    while contrast(mixed := _parse(_hex(_mix(colour, towards, share))), ground) < _READABLE:
        share += _STEP
    return mixed


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    red, green, blue = (
        mine + (theirs - mine) * min(share, 1.0) for mine, theirs in zip(one, other, strict=True)
    )
    return red, green, blue


def _luminance(colour: Colour) -> float:
    red, green, blue = (
        part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
