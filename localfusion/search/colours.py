"""Colours as style sheets write them, and whether one can be told from another. Not which colour a screen shows."""

import colorsys
import re
from dataclasses import dataclass

_LISTED = """
white ffffff black 000000 red ff0000 green 008000 blue 0000ff yellow ffff00 gray 808080 grey 808080
silver c0c0c0 maroon 800000 navy 000080 teal 008080 olive 808000 purple 800080 fuchsia ff00ff aqua 00ffff
lime 00ff00 orange ffa500 pink ffc0cb brown a52a2a gold ffd700 cyan 00ffff magenta ff00ff beige f5f5dc
snow fffafa ivory fffff0 ghostwhite f8f8ff whitesmoke f5f5f5 floralwhite fffaf0 mintcream f5fffa
azure f0ffff aliceblue f0f8ff honeydew f0fff0 seashell fff5ee oldlace fdf5e6 linen faf0e6
lavenderblush fff0f5 lightyellow ffffe0 lightcyan e0ffff cornsilk fff8dc lavender e6e6fa gainsboro dcdcdc
lightgray d3d3d3 lightgrey d3d3d3 darkgray a9a9a9 darkgrey a9a9a9 dimgray 696969 dimgrey 696969
midnightblue 191970 darkblue 00008b darkgreen 006400 darkred 8b0000 darkslategray 2f4f4f indigo 4b0082
"""
_NAMES = dict(re.findall(r"([a-z]+) ([0-9a-f]{6})", _LISTED))
_HEX = re.compile(r"#(?:[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})$")
_FUNCTION = re.compile(r"(rgba?|hsla?|hwb|lab|lch|oklab|oklch)\(([^()]{1,80})\)$")
_NUMBER = re.compile(r"-?\d{0,6}\.?\d{1,6}%?")
_NEAR = 20
"""Of 255, in every channel: closer colours cannot be told apart by a reader."""
_FAINT = 0.1
"""Less than this share of a colour is not seen."""


@dataclass(frozen=True, slots=True)
class Colour:
    """Red, green and blue of 255; `alpha` 0 is transparent, 1 is not."""

    red: float
    green: float
    blue: float
    alpha: float = 1.0

    def over(self, other: "Colour") -> "Colour":
        """This colour as it looks on an opaque one."""
        if self.alpha == 1.0:
            return self
        mine, below = self.alpha, 1 - self.alpha
        return Colour(
            self.red * mine + other.red * below,
            self.green * mine + other.green * below,
            self.blue * mine + other.blue * below,
        )

    @property
    def is_faint(self) -> bool:
        """Whether nobody sees it, whatever is below."""
        return self.alpha <= _FAINT

    def is_lost_on(self, background: "Colour") -> bool:
        """Whether text of this colour cannot be told from an opaque background."""
        seen = self.over(background)
        distances = (seen.red - background.red, seen.green - background.green, seen.blue - background.blue)
        return max(distances) <= _NEAR and min(distances) >= -_NEAR


WHITE = Colour(255, 255, 255)
BLACK = Colour(0, 0, 0)
TRANSPARENT = Colour(0, 0, 0, 0)


def try_colour(text: str) -> Colour | None:
    """The colour that a value in lower case means; None for one that is no colour or depends on more."""
    text = text.strip()
    if text == "transparent":
        return TRANSPARENT
    if name := _NAMES.get(text):
        text = f"#{name}"
    if _HEX.match(text):
        return _of_hex(text[1:])
    if function := _FUNCTION.match(text):
        return _of_function(function[1], _NUMBER.findall(function[2]))
    return None


def _of_hex(digits: str) -> Colour:
    if len(digits) <= 4:
        digits = "".join(digit * 2 for digit in digits)
    red, green, blue, *alpha = (int(digits[at : at + 2], 16) for at in range(0, len(digits), 2))
    return Colour(red, green, blue, alpha[0] / 255 if alpha else 1.0)


def _of_function(name: str, numbers: list[str]) -> Colour | None:
    if len(numbers) not in (3, 4):
        return None
    alpha = _share(numbers[3], 1.0) if len(numbers) == 4 else 1.0
    if name == "hwb":
        return _of_hwb(numbers, alpha)
    if name.endswith(("lab", "lch")):
        return _of_lightness(name, numbers, alpha)
    if name.startswith("rgb"):
        red, green, blue = (_share(number, 255.0) * 255 for number in numbers[:3])
        return Colour(red, green, blue, alpha)
    saturation, lightness = (_share(number, 100.0) for number in numbers[1:3])
    channels = colorsys.hls_to_rgb(float(numbers[0].rstrip("%")) % 360 / 360, lightness, saturation)
    red, green, blue = (channel * 255 for channel in channels)
    return Colour(red, green, blue, alpha)


def _of_hwb(numbers: list[str], alpha: float) -> Colour:
    white, black = (_share(number, 100.0) for number in numbers[1:3])
    whole = max(white + black, 1.0)
    hue = colorsys.hls_to_rgb(float(numbers[0].rstrip("%")) % 360 / 360, 0.5, 1.0)
    red, green, blue = ((channel * (1 - (white + black) / whole) + white / whole) * 255 for channel in hue)
    return Colour(red, green, blue, alpha)


def _of_lightness(name: str, numbers: list[str], alpha: float) -> Colour | None:
    """A colour that is told by its lightness first, where it is nearly grey; None for one that is not, unless faint."""
    is_ok = name.startswith("ok")
    chroma = [abs(float(number.rstrip("%"))) for number in numbers[1 : 3 if name.endswith("ab") else 2]]
    if alpha > _FAINT and max(chroma) > (0.02 if is_ok else 4.0):
        return None
    lightness = _share(numbers[0], 1.0 if is_ok else 100.0)
    luminance = lightness**3 if is_ok else _luminance(lightness)
    grey = 255 * (12.92 * luminance if luminance <= 0.0031308 else 1.055 * luminance ** (1 / 2.4) - 0.055)
    return Colour(grey, grey, grey, alpha)


def _luminance(lightness: float) -> float:
    """That of a CIE lightness, both of 1."""
    return ((lightness * 100 + 16) / 116) ** 3 if lightness > 0.08 else lightness * 100 / 903.3


def _share(number: str, whole: float) -> float:
    """A number of `whole`, or a percentage, as a share between 0 and 1."""
    value = float(number.rstrip("%")) / (100.0 if number.endswith("%") else whole)
    return min(max(value, 0.0), 1.0)
