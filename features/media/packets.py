"""Packets, time bases and error messages of FFmpeg, alike in all versions of PyAV."""

from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import av

if TYPE_CHECKING:
    AnyPacket: TypeAlias = av.Packet[Any]
else:
    AnyPacket = av.Packet  # PyAV's class takes a type argument in its stubs only


class _Rational(Protocol):
    @property
    def numerator(self) -> int: ...

    @property
    def denominator(self) -> int: ...


def to_fraction(value: _Rational | None) -> Fraction | None:
    """Convert a stream's time base or rate; None when the file does not state it.

    PyAV 18 has fractions, and None for unknown; PyAV 19 has rationals of its own with rounding arithmetic, and 0/1 or
    x/0 for unknown.
    """
    return Fraction(value.numerator, value.denominator) if value else None


def ffmpeg_message(error: Exception) -> str:
    """FFmpeg's description of what is wrong with a file.

    Re-raises MemoryError: that is the machine or this process's limit, not damage.
    """
    if isinstance(error, MemoryError):
        raise error
    return getattr(error, "strerror", None) or str(error)
