"""YAML text to plain values that remember their lines. Says where a key stands, not what it means.

Stricter than YAML itself: text keys only, no duplicate keys, no tags, no merge keys, and limits on size,
depth and the work that aliases can cause.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import yaml

from localfusion.errors import ConfigError

YamlValue = None | bool | int | float | str | tuple["YamlValue", ...] | dict[str, "YamlValue"]
Location = tuple[str | int, ...]

MAX_CHARACTERS = 262_144
MAX_DEPTH = 16
MAX_VALUES = 20_000

_PLAIN_TAGS = frozenset(f"tag:yaml.org,2002:{name}" for name in ("null", "bool", "int", "float", "str"))
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"
_MAP = "tag:yaml.org,2002:map"
_SEQUENCE = "tag:yaml.org,2002:seq"


@dataclass(frozen=True, slots=True)
class Located:
    """A parsed file: its value, and the line (from 1) of every key and entry."""

    name: str
    value: YamlValue
    lines: Mapping[Location, int]

    def line(self, location: Location) -> int:
        """The line of a location, or of the nearest one around it that the file has."""
        for length in range(len(location), 0, -1):
            if (line := self.lines.get(location[:length])) is not None:
                return line
        return 1

    def error(self, location: Location, message: str, *, hint: str) -> ConfigError:
        """An error that names the file and the line."""
        return ConfigError(f"{self.name}:{self.line(location)}: {message}", hint=hint)


def read_yaml(text: str, *, name: str) -> Located:
    """Parse one YAML document; raises ConfigError with file and line for anything that is not plain and bounded."""
    if len(text) > MAX_CHARACTERS:
        raise ConfigError(
            f"{name}: the file has {len(text)} characters and at most {MAX_CHARACTERS} are read",
            hint="split it, and name the part to use with --models",
        )
    try:
        _check_shape(text, name)
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        reader = _Reader(name, loader)
        value = None if node is None else reader.value(node, ())
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = 1 if mark is None else mark.line + 1
        problem = error.problem or error.context or "cannot be read"
        raise ConfigError(
            f"{name}:{line}: not valid YAML: {problem}", hint="mend the line, or the one before"
        ) from error
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigError(
            f"{name}:{line}: not valid YAML: {error.reason}", hint="save the file as plain UTF-8 text"
        ) from error
    return Located(name, value, reader.lines)


def _check_shape(text: str, name: str) -> None:
    """Refuse depth and size from the flat stream of events, before anything recursive sees the text."""
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader), start=1):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > MAX_DEPTH or count > MAX_VALUES:
            limit = f"nested deeper than {MAX_DEPTH}" if depth > MAX_DEPTH else f"more than {MAX_VALUES} values"
            line = 1 if event.start_mark is None else event.start_mark.line + 1
            raise ConfigError(f"{name}:{line}: {limit}", hint="a models file is flat: models, presets, aliases")


class _Reader:
    """Turns nodes into values; counts what it made, so that aliases cannot multiply without end."""

    def __init__(self, name: str, loader: yaml.SafeLoader) -> None:
        self.name = name
        self.loader = loader
        self.lines: dict[Location, int] = {}
        self.count = 0

    def value(self, node: yaml.Node, location: Location) -> YamlValue:
        self.lines.setdefault(location, node.start_mark.line + 1)
        self.count += 1
        if self.count > MAX_VALUES or len(location) > MAX_DEPTH:
            raise self._error(node, "its aliases (*) expand to too many values", hint="write fewer, or none")
        if isinstance(node, yaml.MappingNode):
            self._require(node, _MAP)
            return {key: self.value(child, (*location, key)) for key, child in self._items(node, location)}
        if isinstance(node, yaml.SequenceNode):
            self._require(node, _SEQUENCE)
            return tuple(self.value(child, (*location, i)) for i, child in enumerate(node.value))
        return self._scalar(node)

    def _items(self, node: yaml.MappingNode, location: Location) -> Iterator[tuple[str, yaml.Node]]:
        seen: dict[str, int] = {}
        for key_node, child in node.value:
            line = key_node.start_mark.line + 1
            key = self._key(key_node)
            if key in seen:
                raise self._error(
                    key_node, f'the key "{key}" is there twice', hint=f"remove it here or in line {seen[key]}"
                )
            seen[key] = line
            self.lines.setdefault((*location, key), line)
            yield key, child

    def _key(self, node: yaml.Node) -> str:
        if node.tag == _MERGE:
            raise self._error(node, "merge keys (<<) are not read", hint="repeat the keys")
        if node.tag != "tag:yaml.org,2002:str":
            raise self._error(node, "a key must be text", hint="put it in quotes")
        return str(node.value)

    def _scalar(self, node: yaml.Node) -> YamlValue:
        if node.tag == _TIMESTAMP:
            return str(node.value)
        if node.tag not in _PLAIN_TAGS:
            raise self._error(node, f"the tag {node.tag} is not read", hint="write the value without a tag")
        try:
            value: YamlValue = self.loader.construct_object(node)
        except ValueError as error:
            raise self._error(node, f"{node.value[:40]!r} is not a value", hint="put it in quotes") from error
        return value

    def _require(self, node: yaml.Node, tag: str) -> None:
        if node.tag != tag:
            raise self._error(node, f"the tag {node.tag} is not read", hint="write the value without a tag")

    def _error(self, node: yaml.Node, message: str, *, hint: str) -> ConfigError:
        return ConfigError(f"{self.name}:{node.start_mark.line + 1}: {message}", hint=hint)
