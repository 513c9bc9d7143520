"""How an element looks, as far as it decides whether a reader sees its text: a pure fold of styles, outermost first.

Nothing is laid out. A look is *doubtful* where it depends on what is not known here (sheets that were not fetched, what
lies behind, a movement that ends elsewhere).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import IntEnum

from localfusion.search.colours import WHITE, Colour, try_colour
from localfusion.search.computed import computed


class Sight(IntEnum):
    """Whether a reader sees a text."""

    SHOWN = 0
    DOUBTFUL = 1
    HIDDEN = 2


_UNITS = {"px": 1.0, "pt": 4 / 3, "pc": 16.0, "in": 96.0, "cm": 37.8, "mm": 3.78, "vw": 12.8, "vh": 8.0, "ch": 8.0}
_SIZES = {
    "xx-small": 9.0,
    "x-small": 10.0,
    "small": 13.0,
    "medium": 16.0,
    "large": 18.0,
    "x-large": 24.0,
    "xx-large": 32.0,
    "xxx-large": 48.0,
}
_ROOT_PX = 16.0
_LENGTH = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?)([a-z]+|%)?$")
_SMALLEST_PX = 2.0
_FAR_PX = 900.0
_VERY_FAR_PX = 8000.0
_NO_OPACITY = re.compile(r"opacity\(\s*(?:0?\.0\d*|0+)%?\s*\)")
_OPAQUE_ENOUGH = 0.05
_CLIPPED = re.compile(r"rect\(\s*(-?\d+)(?:px)?[\s,]+(-?\d+)(?:px)?[\s,]+(-?\d+)(?:px)?[\s,]+(-?\d+)(?:px)?\s*\)")
_CLIPPING_PATH = re.compile(
    r"inset\(\s*(?:100|[5-9]\d)(?:\.\d+)?%\s*[)\s]|circle\(\s*0|ellipse\(\s*0|polygon\(\s*0[^,)]{0,9}(?:,\s*0[^,)]{0,9})*\)"
)
_NO_SCALE = re.compile(
    r"scale(?:3d|x|y)?\(\s*(?:0?\.0\d*|0+)\s*[,)]|scale(?:3d)?\([^,()]{1,9},\s*(?:0?\.0\d*|0+)\s*[,)]|matrix\(\s*0\s*,"
)
_MOVE = re.compile(r"translate(?:3d|x|y)?\(([^()]{1,60})\)")
_INSET = re.compile(r"inset\(([\d.% ]{1,60})(?:round[^()]{0,60})?\)")
_OVERFLOWS = ("overflow", "overflow-x", "overflow-y")
_OUT_OF_FLOW = ("absolute", "fixed")
_MOVED = (*_OUT_OF_FLOW, "relative", "sticky", "-webkit-sticky")


@dataclass(frozen=True, slots=True)
class Look:
    """What holds for the text in an element. `gone` is for good; all else, what stands in the element may change.

    `backdrop` is the colour behind, None where that is unknown; `is_sure` says that nothing else was seen to lie there;
    `is_filled`, that `colour` is one that letters are filled with, whatever colour they have.
    """

    gone: Sight = Sight.SHOWN
    is_visible: bool = True
    opacity: float = 1.0
    font_px: float = _ROOT_PX
    colour: Colour | None = None
    backdrop: Colour | None = WHITE
    is_sure: bool = True
    is_indented_away: bool = False
    is_painted_by_backdrop: bool = False
    is_filled: bool = False

    @property
    def sight(self) -> Sight:
        """Whether a reader sees text that stands here."""
        if not self.is_visible or self.is_indented_away or self.font_px < _SMALLEST_PX:
            return Sight.HIDDEN
        return max(self.gone, self._of_colour())

    def _of_colour(self) -> Sight:
        if self.colour is None or self.is_painted_by_backdrop:
            return Sight.SHOWN
        if self.colour.is_faint:
            return Sight.HIDDEN
        if self.backdrop is None:
            return Sight.DOUBTFUL if self.colour.is_lost_on(WHITE) else Sight.SHOWN
        if not self.colour.is_lost_on(self.backdrop):
            return Sight.SHOWN
        return Sight.HIDDEN if self.is_sure else Sight.DOUBTFUL

    def shown(self) -> "Look":
        """This look of a whole page: what hides all of it, until a script shows it, is passed over."""
        return replace(self, gone=Sight.SHOWN, is_visible=True, opacity=1.0)

    def hidden(self) -> "Look":
        """This look where nothing in the element is shown, whatever it says."""
        return replace(self, gone=Sight.HIDDEN)

    def doubted(self) -> "Look":
        """This look where nothing that its style hides is taken as hidden for sure."""
        if self.sight < Sight.HIDDEN:
            return self
        return replace(
            self,
            gone=Sight.DOUBTFUL,
            is_visible=True,
            opacity=1.0,
            font_px=_ROOT_PX,
            colour=None,
            is_indented_away=False,
        )

    def within(self, says: Mapping[str, str], *, is_sure_of_sheets: bool) -> "Look":
        """The look of an element in one of this look; `is_sure_of_sheets` says that no sheet of the page is missing."""
        if not says:
            return self
        opacity = self.opacity * _opacity(says)
        look = replace(
            self,
            gone=max(self.gone, _gone(says, self.font_px, is_see_through=opacity <= _OPAQUE_ENOUGH)),
            opacity=self.opacity if _moves(says) else opacity,
            is_visible=_is_visible(says.get("visibility", ""), self.is_visible),
            font_px=_font_px(says.get("font-size", ""), self.font_px),
            is_indented_away=_is_indented_away(says, self),
        )
        return _coloured(look, says, is_sure_of_sheets=is_sure_of_sheets)


def is_layer(tag: str, says: Mapping[str, str]) -> bool:
    """Whether an element may lie below what stands elsewhere: out of the flow, and filled with something."""
    if says.get("position") not in _OUT_OF_FLOW:
        return False
    is_filled = says.get("background-image") == "some" or says.get("background-color", "transparent") != "transparent"
    return is_filled or tag in ("img", "video", "canvas", "svg", "picture", "iframe")


def _is_visible(value: str, inherited: bool) -> bool:
    return {"visible": True, "initial": True, "hidden": False, "collapse": False}.get(value, inherited)


def _font_px(value: str, inherited: float) -> float:
    if value in _SIZES:
        return _SIZES[value]
    if value in ("smaller", "larger"):
        return inherited * (0.83 if value == "smaller" else 1.2)
    size = _try_px(value, em=inherited, whole=inherited)
    return inherited if size is None or size < 0 else size


def _is_indented_away(says: Mapping[str, str], around: Look) -> bool:
    if "text-indent" not in says:
        return around.is_indented_away
    indent = _try_px(says["text-indent"], em=around.font_px, whole=1280.0)
    if indent is None:
        return around.is_indented_away
    return indent <= -_FAR_PX or (indent >= 1280.0 and _is_cut_off(says)) or indent >= _VERY_FAR_PX


def _coloured(look: Look, says: Mapping[str, str], *, is_sure_of_sheets: bool) -> Look:
    colour, is_sure, backdrop = look.colour, look.is_sure, look.backdrop
    fill = says.get("-webkit-text-fill-color", "")
    ink = fill or ("" if look.is_filled else says.get("color", ""))
    if ink and ink not in ("inherit", "currentcolor", "unset"):
        colour = try_colour(ink)
        is_sure = is_sure and is_sure_of_sheets
    if says.get("position") in _MOVED or _negative(says, "margin-top") or _negative(says, "margin-left"):
        is_sure = False
    own = says.get("background-color", "")
    if own and own not in ("inherit", "initial", "unset"):
        shade = try_colour(own)
        if shade is None:
            backdrop = None
        elif shade.alpha == 1.0:
            backdrop, is_sure = shade, True
        elif shade.alpha:
            backdrop = shade.over(backdrop) if backdrop else None
    is_painted = look.is_painted_by_backdrop or "text" in says.get("background-clip", "")
    if says.get("background-image") == "some":
        backdrop = None
    return replace(
        look,
        colour=colour,
        is_sure=is_sure,
        backdrop=backdrop,
        is_painted_by_backdrop=is_painted,
        is_filled=look.is_filled or bool(fill),
    )


def _gone(says: Mapping[str, str], em: float, *, is_see_through: bool) -> Sight:
    """What hides the element and all that stands in it."""
    if says.get("display") == "none" or says.get("content-visibility") == "hidden":
        return Sight.HIDDEN
    moves = _moves(says)
    if is_see_through or _is_shrunk(says):
        return Sight.DOUBTFUL if moves else Sight.HIDDEN
    return max(_off_screen(says, em), _cut_away(says, em, moves=moves))


def _moves(says: Mapping[str, str]) -> bool:
    """Whether the look may end as another."""
    return any(name.startswith(("animation", "transition")) for name in says)


def _opacity(says: Mapping[str, str]) -> float:
    """How much of the element itself is seen, 0 to 1."""
    if _NO_OPACITY.search(says.get("filter", "")):
        return 0.0
    opacity = _try_share(says.get("opacity", ""))
    return 1.0 if opacity is None else min(max(opacity, 0.0), 1.0)


def _is_shrunk(says: Mapping[str, str]) -> bool:
    scale = _try_share(says.get("scale", "").split(" ")[0])
    return bool(_NO_SCALE.search(says.get("transform", ""))) or (scale is not None and abs(scale) <= _OPAQUE_ENOUGH)


def _off_screen(says: Mapping[str, str], em: float) -> Sight:
    out_of_flow = says.get("position") in _OUT_OF_FLOW
    is_relative = says.get("position") in _MOVED
    sides = ("left", "right", "top", "bottom") if out_of_flow else ("left", "top") if is_relative else ()
    if any(_px(says, side, em) <= -_FAR_PX for side in (*sides, "margin-left", "margin-top")):
        return Sight.HIDDEN
    if any(_px(says, side, em) >= _VERY_FAR_PX for side in ("left", "top") if side in sides):
        return Sight.HIDDEN
    farthest = max((abs(_move_px(one, em)) for one in _translations(says)), default=0.0)
    if farthest >= _VERY_FAR_PX:
        return Sight.HIDDEN
    is_behind = says.get("position") in _MOVED and _negative(says, "z-index")
    return Sight.DOUBTFUL if farthest >= _FAR_PX or is_behind else Sight.SHOWN


def _translations(says: Mapping[str, str]) -> list[str]:
    inner = [one for found in _MOVE.findall(says.get("transform", "")) for one in found.split(",")]
    return [*inner, *says.get("translate", "").split(" ")]


def _move_px(value: str, em: float) -> float:
    return _try_px(value.strip(), em=em, whole=800.0) or 0.0


def _cut_away(says: Mapping[str, str], em: float, *, moves: bool) -> Sight:
    """Whether the element is clipped to nothing, or has no room and shows nothing beyond it."""
    out_of_flow = says.get("position") in _OUT_OF_FLOW
    if rect := _CLIPPED.search(says.get("clip", "")):
        top, right, bottom, left = map(int, rect.groups())
        if out_of_flow and (bottom - top <= 1 or right - left <= 1):
            return Sight.HIDDEN
    if _CLIPPING_PATH.search(says.get("clip-path", "")) or _is_inset_away(says.get("clip-path", "")):
        return Sight.DOUBTFUL if moves else Sight.HIDDEN
    if not _is_cut_off(says) and not any(says.get(name, "").startswith(("auto", "scroll")) for name in _OVERFLOWS):
        return Sight.SHOWN
    if any(0 <= _px(says, side, em, missing=99.0) <= 1 for side in ("width", "height")):
        padded = _px(says, "padding-top", em) > 0 or _px(says, "padding-bottom", em) > 0
        return Sight.DOUBTFUL if moves or padded else Sight.HIDDEN
    limits = [_px(says, side, em, missing=99.0) for side in ("max-width", "max-height")]
    return Sight.DOUBTFUL if min(limits) <= 1 else Sight.SHOWN


def _is_cut_off(says: Mapping[str, str]) -> bool:
    return any(says.get(name, "").startswith(("hidden", "clip")) for name in _OVERFLOWS)


def _is_inset_away(value: str) -> bool:
    """Whether a path clips all of it from opposite sides."""
    found = _INSET.search(value)
    sides = [float(share or 0) for share in re.findall(r"(\d{1,4}(?:\.\d{1,4})?)(?:%|\b)", found[1])] if found else []
    if not 0 < len(sides) <= 4:
        return False
    top, right, bottom, left = (sides * 4)[:4] if len(sides) < 3 else [*sides, sides[1]][:4]
    return top + bottom >= 100 or left + right >= 100


def _negative(says: Mapping[str, str], name: str) -> bool:
    return says.get(name, "").startswith("-")


def _px(says: Mapping[str, str], name: str, em: float, *, missing: float = 0.0) -> float:
    length = _try_px(says.get(name, ""), em=em, whole=100.0)
    return missing if length is None else length


def _try_px(value: str, *, em: float, whole: float) -> float | None:
    """A length in pixels; None for what is no plain length."""
    found = _LENGTH.match(computed(value))
    if not found:
        return None
    number, unit = float(found[1]), found[2] or "px"
    scale = {"em": em, "ex": em / 2, "rem": _ROOT_PX, "%": whole / 100}.get(unit, _UNITS.get(unit))
    return None if scale is None else number * scale


def _try_share(value: str) -> float | None:
    found = _LENGTH.match(computed(value))
    if not found or found[2] not in (None, "%"):
        return None
    return float(found[1]) / (100 if found[2] else 1)
