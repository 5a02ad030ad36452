"""Chapter 09: the files of recorded traffic, in two formats.

    Mooncake   blocks of 512 tokens, times in milliseconds   (FAST'25, kvcache-ai)
    Bailian    blocks of 16 tokens, times in seconds         (Alibaba, qwen-bailian)

A trace has no text. It has a hash for each block of a prompt, and two prompts that
begin with the same hashes began with the same tokens.

Left out here: what a cache would have found (`traces`).
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from math import inf
from pathlib import Path
from typing import Any, NamedTuple

_GZIP = b"\x1f\x8b"  # how a gzipped file begins, whatever its name


class Recorded(NamedTuple):
    """A request of a trace."""

    seconds: float  # when it came, since the trace began
    n_prompt: int  # tokens
    n_output: int  # tokens
    blocks: list[int]  # a number for each block; the last block may be short
    chat: int | None = None  # in Bailian: its own id, ...
    parent: int | None = None  # ... that of the turn before it, if there was one, ...
    turn: int | None = None  # ... how many turns there are up to it, from 1, ...
    kind: str | None = None  # ... and what sort of request it is


class TraceError(ValueError):
    """A line of a trace cannot be read: which one, what is wrong, what to do."""


def read_mooncake(path: str | Path) -> list[Recorded]:
    """The requests of a trace in Mooncake's format, plain or gzipped.

    Raises TraceError for a line that is not one, and OSError for a missing file.
    """
    return [
        Recorded(
            seconds=line.number("timestamp") / 1000,
            n_prompt=line.count("input_length"),
            n_output=line.count("output_length"),
            blocks=line.blocks(),
        )
        for line in _lines(path)
    ]


def read_bailian(path: str | Path) -> list[Recorded]:
    """The requests of a trace in Bailian's format, plain or gzipped.

    Raises TraceError for a line that is not one, and OSError for a missing file.
    """
    return [
        Recorded(
            seconds=line.number("timestamp"),
            n_prompt=line.count("input_length"),
            n_output=line.count("output_length"),
            blocks=line.blocks(),
            chat=line.whole("chat_id"),
            parent=line.parent(),
            turn=line.count("turn"),
            kind=str(line.field("type")),
        )
        for line in _lines(path)
    ]


class _Line:
    """A line of a trace, and where it stands: errors name it."""

    def __init__(self, path: str | Path, at: int, text: bytes, names: dict[Any, int]):
        self.place = f"{path}, line {at}"
        self.names = names  # hashes seen so far, each with its number
        try:
            fields = json.loads(text)
        except ValueError as error:
            raise TraceError(
                f"{self.place} is not JSON ({error}): take the line out, or fetch the "
                "file again"
            ) from error
        if not isinstance(fields, Mapping):
            raise TraceError(f"{self.place} is no JSON object: {text[:60]!r}")
        self.fields = fields

    def field(self, name: str) -> Any:
        if name not in self.fields:
            there = ", ".join(map(str, self.fields))
            raise TraceError(
                f"{self.place} has no {name!r}, only {there}: is it of another format? "
                "There are read_mooncake and read_bailian"
            )
        return self.fields[name]

    def number(self, name: str) -> float:
        value = self.field(name)
        if type(value) not in (int, float) or not 0 <= value < inf:
            raise TraceError(f"{self.place}: {name} is {value!r}, not a number from 0")
        return float(value)

    def whole(self, name: str) -> int:
        value = self.field(name)
        if type(value) is not int:
            raise TraceError(f"{self.place}: {name} is {value!r}, not a whole number")
        return int(value)

    def count(self, name: str) -> int:
        value = self.whole(name)
        if value < 0:
            raise TraceError(f"{self.place}: {name} is {value}, and less than nothing")
        return value

    def parent(self) -> int | None:
        """The turn before this one; a first turn says -1."""
        parent = self.whole("parent_chat_id")
        return None if parent < 0 else parent

    def blocks(self) -> list[int]:
        """The hashes, each as a small number: the same for the same hash."""
        hashes = self.field("hash_ids")
        if not isinstance(hashes, list) or not hashes:
            raise TraceError(
                f"{self.place}: hash_ids is {str(hashes)[:60]}, not a list of hashes"
            )
        names = self.names
        try:
            return [names.setdefault(each, len(names)) for each in hashes]
        except TypeError as error:
            raise TraceError(f"{self.place}: hash_ids has a list inside") from error


def _lines(path: str | Path) -> Iterator[_Line]:
    with open(path, "rb") as file:
        zipped = file.read(len(_GZIP)) == _GZIP
    names: dict[Any, int] = {}
    opened = gzip.open if zipped else open
    with opened(path, "rb") as file:
        at = 0
        try:
            for at, text in enumerate(file, 1):
                if text.strip():
                    yield _Line(path, at, text, names)
        except (EOFError, gzip.BadGzipFile, zlib.error) as error:
            raise TraceError(
                f"{path} breaks off after line {at} ({error}): fetch it again"
            ) from error
