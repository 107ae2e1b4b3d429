"""Packets, the pieces of a stream as the container stores them before decoding, and what FFmpeg says of broken ones."""

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
    """A time base or rate of a stream in exact arithmetic; None where the file does not say.

    PyAV 18 has fractions, and None for what is not known; PyAV 19 has rationals of its own, which are rounded among
    themselves, and 0/1 or x/0 for what is not known.
    """
    return Fraction(value.numerator, value.denominator) if value else None


def ffmpeg_message(error: Exception) -> str:
    """What is wrong with the file, in FFmpeg's words.

    Raises the error again when memory has run out: that is the machine, or this process's limit, and no damage.
    """
    if isinstance(error, MemoryError):
        raise error
    return getattr(error, "strerror", None) or str(error)
