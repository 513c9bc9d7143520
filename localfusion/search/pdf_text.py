"""The text of one page of a PDF, parted into what a reader sees and what is hidden: unpainted, tiny, white on white.

Looks at each character only where the page has any such text. Text under a picture is not known from text over it, and
what lies outside of the page is looked for on such pages alone.
"""

import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import Enum, auto

import pypdfium2
import pypdfium2.raw as pdfium

from localfusion.search.blocks import squeeze
from localfusion.search.suspicion import speaks_to_a_model

_SMALLEST_PT = 2.0
_NEARLY_WHITE = 235
_FAINT = 26
"""Of 255: what is painted with less is not seen."""
_SCAN_SHARE = 0.5
"""A page with pictures on so much of it is a scan, and unpainted text on it is what was recognized."""
_MOST_OBJECTS = 20_000
_MOST_AREAS = 500
_DEEPEST = 6
_UNPAINTED = (pdfium.FPDF_TEXTRENDERMODE_INVISIBLE, pdfium.FPDF_TEXTRENDERMODE_CLIP)


class _Ink(Enum):
    """How a text is painted."""

    ORDINARY = auto()
    NONE = auto()
    WHITE = auto()
    TINY = auto()


@dataclass(frozen=True, slots=True)
class PageText:
    """What a page shows, and what stands in it without being seen."""

    shown: str
    hidden: str = ""


@dataclass(frozen=True, slots=True)
class _Box:
    left: float
    bottom: float
    right: float
    top: float

    @property
    def area(self) -> float:
        """In square points."""
        return max(self.right - self.left, 0) * max(self.top - self.bottom, 0)

    def has(self, x: float, y: float) -> bool:
        """Whether a point lies in it."""
        return self.left <= x <= self.right and self.bottom <= y <= self.top


@dataclass(slots=True)
class _Painted:
    """What a page paints: the ink of its texts by their address, and where it has pictures and dark areas."""

    inks: dict[int, _Ink] = field(default_factory=dict)
    pictures: list[_Box] = field(default_factory=list)
    areas: list[_Box] = field(default_factory=list)
    n_objects: int = 0

    @property
    def is_odd(self) -> bool:
        """Whether some text may not be seen."""
        return self.n_objects >= _MOST_OBJECTS or any(ink != _Ink.ORDINARY for ink in self.inks.values())


def text_of(page: pypdfium2.PdfPage) -> PageText:
    """The text of a page. Raises PdfiumError for a damaged one."""
    textpage = page.get_textpage()
    try:
        painted = _Painted()
        for piece in _objects(page):
            _note(painted, piece, None, scale=1.0, depth=0)
        return _parted(page, textpage, painted) if painted.is_odd else PageText(str(textpage.get_text_bounded()))
    finally:
        textpage.close()


def _objects(page: pypdfium2.PdfPage) -> "Iterator[pdfium.FPDF_PAGEOBJECT]":
    for index in range(min(pdfium.FPDFPage_CountObjects(page), _MOST_OBJECTS)):
        yield pdfium.FPDFPage_GetObject(page, index)


def _note(painted: _Painted, piece: "pdfium.FPDF_PAGEOBJECT", around: _Box | None, *, scale: float, depth: int) -> None:
    """Take in an object; `around` is the form that it stands in, whose place is known where its own is not."""
    painted.n_objects += 1
    if painted.n_objects > _MOST_OBJECTS:
        return
    match pdfium.FPDFPageObj_GetType(piece):
        case pdfium.FPDF_PAGEOBJ_TEXT:
            painted.inks[_address(piece)] = _ink(piece, scale)
        case pdfium.FPDF_PAGEOBJ_IMAGE:
            painted.pictures.append(around or _box(piece))
        case pdfium.FPDF_PAGEOBJ_FORM if depth < _DEEPEST:
            inner = scale * _scale(piece)
            for index in range(pdfium.FPDFFormObj_CountObjects(piece)):
                one = pdfium.FPDFFormObj_GetObject(piece, index)
                _note(painted, one, around or _box(piece), scale=inner, depth=depth + 1)
        case pdfium.FPDF_PAGEOBJ_SHADING:
            painted.areas.append(around or _box(piece))
        case pdfium.FPDF_PAGEOBJ_PATH if _is_filled(piece):
            painted.areas.append(around or _box(piece))


def _parted(page: pypdfium2.PdfPage, textpage: pypdfium2.PdfTextPage, painted: _Painted) -> PageText:
    shown: list[str] = []
    hidden: list[str] = []
    doubtful: list[int] = []
    whole = _Box(*page.get_bbox())
    is_scan = sum(picture.area for picture in painted.pictures) >= _SCAN_SHARE * whole.area
    areas = [*painted.pictures, *painted.areas][:_MOST_AREAS]
    is_seen = True
    for index in range(pdfium.FPDFText_CountChars(textpage)):
        character = _character(textpage, index)
        piece = pdfium.FPDFText_GetTextObject(textpage, index)
        if piece:
            ink = painted.inks.get(_address(piece), _Ink.ORDINARY)
            place = _place(textpage, index)
            on_area = ink == _Ink.WHITE and any(area.has(*place) for area in areas)
            is_seen = whole.has(*place) and (ink == _Ink.ORDINARY or on_area or (ink == _Ink.NONE and is_scan))
            if is_seen and on_area:
                doubtful.append(len(shown))
        shown.append(character if is_seen else "")
        hidden.append(character if not is_seen else " " if hidden and hidden[-1].strip() else "")
    if doubtful and speaks_to_a_model(squeeze("".join(shown[at] for at in doubtful))):
        hidden += [" ", *(shown[at] for at in doubtful)]
        for at in doubtful:
            shown[at] = ""
    return PageText("".join(shown), "".join(hidden).strip())


def _address(piece: "pdfium.FPDF_PAGEOBJECT") -> int:
    return ctypes.cast(piece, ctypes.c_void_p).value or 0


def _ink(piece: "pdfium.FPDF_PAGEOBJECT", scale: float) -> _Ink:
    mode = pdfium.FPDFTextObj_GetTextRenderMode(piece)
    if mode in _UNPAINTED:
        return _Ink.NONE
    size = ctypes.c_float()
    if pdfium.FPDFTextObj_GetFontSize(piece, size) and abs(size.value) * _scale(piece) * scale < _SMALLEST_PT:
        return _Ink.TINY
    colour = _fill(piece)
    if colour is None or mode not in (pdfium.FPDF_TEXTRENDERMODE_FILL, pdfium.FPDF_TEXTRENDERMODE_FILL_CLIP):
        return _Ink.ORDINARY
    if colour[3] < _FAINT:
        return _Ink.TINY
    return _Ink.WHITE if min(colour[:3]) >= _NEARLY_WHITE else _Ink.ORDINARY


def _fill(piece: "pdfium.FPDF_PAGEOBJECT") -> tuple[int, int, int, int] | None:
    """Red, green, blue and alpha of 255."""
    red, green, blue, alpha = (ctypes.c_uint() for _ in range(4))
    is_known = pdfium.FPDFPageObj_GetFillColor(piece, red, green, blue, alpha)
    return (red.value, green.value, blue.value, alpha.value) if is_known else None


def _is_filled(piece: "pdfium.FPDF_PAGEOBJECT") -> bool:
    """Whether a path is an area that white text is seen on."""
    mode, stroke = ctypes.c_int(), ctypes.c_int()
    if not pdfium.FPDFPath_GetDrawMode(piece, mode, stroke) or mode.value == pdfium.FPDF_FILLMODE_NONE:
        return False
    colour = _fill(piece)
    return colour is None or (min(colour[:3]) < _NEARLY_WHITE and colour[3] >= _FAINT)


def _scale(piece: "pdfium.FPDF_PAGEOBJECT") -> float:
    """How much higher things are than they say."""
    matrix = pdfium.FS_MATRIX()
    return math.hypot(matrix.c, matrix.d) if pdfium.FPDFPageObj_GetMatrix(piece, matrix) else 1.0


def _box(piece: "pdfium.FPDF_PAGEOBJECT") -> _Box:
    left, bottom, right, top = (ctypes.c_float() for _ in range(4))
    pdfium.FPDFPageObj_GetBounds(piece, left, bottom, right, top)
    return _Box(left.value, bottom.value, right.value, top.value)


def _place(textpage: pypdfium2.PdfTextPage, index: int) -> tuple[float, float]:
    """The middle of a character."""
    left, right, bottom, top = (ctypes.c_double() for _ in range(4))
    pdfium.FPDFText_GetCharBox(textpage, index, left, right, bottom, top)
    return (left.value + right.value) / 2, (bottom.value + top.value) / 2


def _character(textpage: pypdfium2.PdfTextPage, index: int) -> str:
    number = int(pdfium.FPDFText_GetUnicode(textpage, index))
    return chr(number) if 0 < number < 0x110000 and not 0xD800 <= number < 0xE000 else ""
