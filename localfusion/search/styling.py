"""How each element of a page looks: by its attributes, its style, the page's sheets and what it stands in."""

from dataclasses import replace

from localfusion.search.blocks import word_set
from localfusion.search.colours import BLACK
from localfusion.search.declarations import declarations, merged, plain
from localfusion.search.embedded_sheets import embedded_sheets, names_other_sheets
from localfusion.search.looks import Look, Sight, is_layer
from localfusion.search.markup import Tag
from localfusion.search.stylesheets import StyleSheet

_UNSEEN = word_set(
    "script style template noscript svg math iframe object canvas audio video select datalist button textarea rp "
    "applet noframes noembed"
)
_WHOLE = word_set("html body")
_WITHOUT_SCRIPTS = (".no-js", ".nojs", ".no_js")


class Styling:
    """The styles of one page, and the keys of the elements that are open now and of those that were seen."""

    def __init__(self, html: str, *, with_noscript: bool = False, is_doubted: bool = False) -> None:
        """`is_doubted` says that no style hides a text for sure. Raises Unreadable where there is no end of styles."""
        self._is_doubted = is_doubted
        self._has_layers = False
        self._unseen = _UNSEEN - {"noscript"} if with_noscript else _UNSEEN
        self._sheet = StyleSheet(embedded_sheets(html))
        self._has_all_sheets = not names_other_sheets(html)
        self._styles: dict[str, dict[str, str]] = {}
        self._around: dict[str, int] = {}
        self._before: set[str] = set()

    @property
    def first_look(self) -> Look:
        """That of a page without styles: black on white, but for what sheets may say that do not stand in it."""
        return Look(colour=BLACK if self._has_all_sheets else None, is_sure=self._has_all_sheets)

    def enter(self, keys: tuple[str, ...]) -> None:
        """An element with these keys is open from now on."""
        for key in keys:
            self._around[key] = self._around.get(key, 0) + 1

    def leave(self, keys: tuple[str, ...]) -> None:
        """It is closed."""
        for key in keys:
            if self._around[key] == 1:
                del self._around[key]
            else:
                self._around[key] -= 1

    def look(self, tag: Tag, keys: tuple[str, ...], *, within: Look, is_opener: bool) -> Look:
        """The look of an element in one that looks as `within`; a button is seen where it `is_opener`."""
        look = self._styled(tag, keys, within)
        self._before.update(keys)
        if tag.name in _WHOLE:
            return look.shown()
        is_hidden = self._is_hidden(tag) and not (is_opener and tag.name == "button")
        if is_hidden:
            return look.hidden()
        return look.doubted() if self._is_doubted and within.gone < Sight.HIDDEN else look

    def _styled(self, tag: Tag, keys: tuple[str, ...], within: Look) -> Look:
        says = self._sheet.declared(keys, tag.attributes, around=self._around, before=self._before)
        if hints := _presentational(tag):
            says = merged(hints, says)
        variables = self._sheet.variables
        if style := tag.attributes.get("style"):
            own = self._styles.get(style)
            if own is None:
                own = self._styles[style] = declarations(style)
            says = merged(says, own)
            if "--" in style:
                variables = {**variables, **own}
                self._sheet.unsettled.update(name for name in own if name.startswith("--"))
        says = plain(says, variables, self._sheet.unsettled)
        look = within.within(says, is_sure_of_sheets=self._has_all_sheets) if says else within
        if self._has_layers and "color" in says and not says.get("background-color"):
            look = replace(look, is_sure=False)
        self._has_layers |= is_layer(tag.name, says)
        is_coloured = tag.name in ("a", "mark") and "color" not in says
        return replace(look, colour=None) if is_coloured else look

    def _is_hidden(self, tag: Tag) -> bool:
        """Whether an element is not shown, whatever its style."""
        attributes = tag.attributes
        return (
            tag.name in self._unseen
            or (tag.name == "dialog" and "open" not in attributes)
            or "hidden" in attributes
            or "popover" in attributes
            or attributes.get("aria-hidden", "").lower() == "true"
        )


def keys_of(tag: Tag) -> tuple[str, ...]:
    """What rules of style know an element by. A page that runs scripts is not without them."""
    attributes = tag.attributes
    classes = [f".{name}" for name in dict.fromkeys(attributes.get("class", "").split())]
    if tag.name in _WHOLE:
        classes = [name for name in classes if name not in _WITHOUT_SCRIPTS]
    own_id = attributes.get("id")
    return (tag.name, *classes, f"#{own_id}") if own_id else (tag.name, *classes)


def _presentational(tag: Tag) -> dict[str, str]:
    """What the attributes that style sheets have replaced say."""
    attributes = tag.attributes
    found: dict[str, str] = {}
    ink = attributes.get("color") if tag.name == "font" else attributes.get("text") if tag.name == "body" else None
    if ink:
        found |= declarations(f"color:{ink}")
    if "bgcolor" in attributes:
        found |= declarations(f"background-color:{attributes['bgcolor']}")
    if "background" in attributes:
        found["background-image"] = "some"
    return found
