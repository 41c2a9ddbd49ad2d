"""gzip and zstd files as a stream of their unpacked bytes, in constant memory, given up to the very break."""

import io
import zlib
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO, Protocol, cast

PIECE_BYTES = 1 << 12
"""Packed bytes that are unpacked at once."""
BUFFER_BYTES = 1 << 18


class BrokenArchiveError(Exception):
    """An archive that cannot be unpacked to its end; raised when all that came out of it before has been read."""

    def __init__(self, reason: str, line: int) -> None:
        super().__init__(reason)
        self.reason = reason
        """What is wrong, in plain words."""
        self.line = line
        """The unpacked line that was reached, from 1."""


class Decoder(Protocol):
    """What zlib's and zstandard's decompression objects have in common; one unpacks one member or frame."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /) -> bytes: ...


def is_compressed(path: Path) -> bool:
    """Whether the suffix names a compression."""
    return path.suffix.lower() in (".gz", ".zst")


def open_bytes(path: Path, on_read: Callable[[int], None] | None = None) -> BinaryIO:
    """The file's bytes, unpacked where its suffix is `.gz` or `.zst`; cannot seek then.

    Args:
        path: the file.
        on_read: told how many bytes, packed ones, were taken from the disk.

    Raises:
        OSError: the file cannot be opened.
    Reading raises BrokenArchiveError after the last byte before the break.
    """
    file = cast(BinaryIO, io.BufferedReader(TellingFile(path, on_read), BUFFER_BYTES))
    if not is_compressed(path):
        return file
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, io.BufferedReader(_Unpacked(file, _gzip, (zlib.error,)), BUFFER_BYTES))
    zstandard: Any = import_module("zstandard")
    frame = zstandard.ZstdDecompressor().decompressobj
    return cast(BinaryIO, io.BufferedReader(_Unpacked(file, frame, (zstandard.ZstdError,)), BUFFER_BYTES))


def _gzip() -> Decoder:
    return zlib.decompressobj(31)  # 31: gzip's header and check sum, not zlib's


class TellingFile(io.FileIO):
    """A raw file that tells how much of it was read."""

    def __init__(self, path: Path, on_read: Callable[[int], None] | None = None) -> None:
        super().__init__(path, "rb")
        self._on_read = on_read

    def readinto(self, buffer: Any, /) -> int:
        size = super().readinto(buffer)
        if self._on_read is not None and size:
            self._on_read(size)
        return size


class _Unpacked(io.RawIOBase):
    """The unpacked bytes as a raw file."""

    def __init__(
        self, file: BinaryIO, make: Callable[[], Decoder], errors: tuple[type[Exception], ...]
    ) -> None:
        self._file = file
        self._pieces = _unpack(file, make, errors)
        self._left = memoryview(b"")
        self._lines = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        while not self._left:
            try:
                piece = next(self._pieces, None)
            except _BreakError as error:
                raise BrokenArchiveError(str(error), self._lines + 1) from error
            if piece is None:
                return 0
            self._lines += piece.count(b"\n")
            self._left = memoryview(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size

    def close(self) -> None:
        self._file.close()
        super().close()


class _BreakError(Exception):
    """The archive's break, before it is known which line it is in."""


def _unpack(
    file: BinaryIO, make: Callable[[], Decoder], errors: tuple[type[Exception], ...]
) -> Iterator[bytes]:
    feed, done = _Feed(make), 0
    while packed := file.read(PIECE_BYTES):
        try:
            unpacked = feed.unpack(packed)
        except errors:
            yield from _last_bytes(file, _Feed(make), done, errors)
            return
        done += len(packed)
        yield unpacked
    if not feed.is_whole:
        raise _BreakError("it is cut off")


def _last_bytes(
    file: BinaryIO, feed: "_Feed", done: int, errors: tuple[type[Exception], ...]
) -> Iterator[bytes]:
    """A decoder that fails keeps back what it unpacked in that call: so again to there, and on byte by byte."""
    file.seek(0)
    while done > 0:
        packed = file.read(min(PIECE_BYTES, done))
        feed.unpack(packed)
        done -= len(packed)
    while byte := file.read(1):
        try:
            unpacked = feed.unpack(byte)
        except errors as error:
            raise _BreakError(str(error)) from error
        yield unpacked
    raise _BreakError("it changed while it was read")


class _Feed:
    """Unpacks members or frames that follow each other as one stream."""

    def __init__(self, make: Callable[[], Decoder]) -> None:
        self._make = make
        self._decoder = make()

    @property
    def is_whole(self) -> bool:
        """Whether the last member ended."""
        return self._decoder.eof

    def unpack(self, packed: bytes) -> bytes:
        """What comes out when these bytes go in."""
        unpacked: list[bytes] = []
        while packed:
            if self._decoder.eof:
                if self._make is _gzip and not (packed := packed.lstrip(b"\0")):
                    break  # gzip allows zeros behind the last member
                self._decoder = self._make()
            unpacked.append(self._decoder.decompress(packed))
            packed = self._decoder.unused_data if self._decoder.eof else b""
        return b"".join(unpacked)
