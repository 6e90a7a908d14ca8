"""The YAML nodes of a preset file, which know where they stand: so an error names file, line and key."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import yaml


class PresetError(ValueError):
    """A name that no preset has, or a file that does not say what it should: then the message names line and key."""


class Node:
    """A YAML node that knows its file, line and path of keys."""

    def __init__(self, node: yaml.Node, file: Path, path: str = "", line: int | None = None) -> None:
        self.node, self.file, self.path = node, file, path
        self.line = node.start_mark.line + 1 if line is None else line

    def error(self, words: str) -> PresetError:
        """An error that names file, line and key."""
        return PresetError(f"{self.file}:{self.line}: {self.path + ': ' if self.path else ''}{words}")

    def items(self, allowed: tuple[str, ...] | None = None, what: str = "key") -> dict[str, Node]:
        """Key -> node of a mapping; an error for a key that is unknown or comes twice."""
        if not isinstance(self.node, yaml.MappingNode):
            raise self.error(f"must be a mapping, got {self.value()!r}.")
        found: dict[str, Node] = {}
        for key, value in self.node.value:
            name = str(key.value)
            path = f"{self.path}.{name}" if self.path else name
            child = Node(value, self.file, path, key.start_mark.line + 1)
            if name in found:
                raise child.error(f"comes twice, first on line {found[name].line}.")
            if allowed is not None and name not in allowed:
                raise child.error(f"unknown {what}; use {', '.join(allowed)}.")
            found[name] = child
        return found

    def value(self):
        """The plain Python value, read as YAML's safe loader does."""
        try:
            return yaml.constructor.SafeConstructor().construct_document(self.node)
        except yaml.constructor.ConstructorError as error:
            raise self.error(f"{error.problem}.") from None

    def expect(self, good: Callable[[object], bool], words: str):
        """The value, if ``good`` says so."""
        value = self.value()
        if not good(value):
            raise self.error(f"must be {words}, got {self.value()!r}.")
        return value

    def one_of(self, *allowed: str) -> str:
        """One of these words."""
        return self.expect(lambda x: x in allowed, " or ".join(allowed))

    def text(self) -> str:
        """Text."""
        return self.expect(lambda x: isinstance(x, str), "text")

    def flag(self) -> bool:
        """True or false."""
        return self.expect(lambda x: isinstance(x, bool), "true or false")

    def count(self, least: int) -> int:
        """An integer of at least ``least``."""
        return self.expect(
            lambda x: isinstance(x, int) and not isinstance(x, bool) and x >= least, f"an integer of at least {least}"
        )


def read(file: str | os.PathLike) -> dict[str, Node]:
    """Model -> node of a file.

    Raises:
        FileNotFoundError: no such file. PresetError: not YAML, or not a mapping.
    """
    path = Path(file)
    if not path.is_file():
        raise FileNotFoundError(f"no preset file {path}.")
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise PresetError(
            f"{path}:{line}: not UTF-8 (byte {error.object[error.start]:#x}); save it as UTF-8."
        ) from None
    except yaml.reader.ReaderError as error:
        raise PresetError(f"{path}: not YAML: {error.reason}.") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise PresetError(f"{path}:{mark.line + 1 if mark else 1}: not YAML: {error.problem}.") from None
    if root is None:
        raise PresetError(f"{path}:1: the file is empty.")
    return Node(root, path).items()
