"""Packets, the pieces of a stream as the container stores them before decoding, and what FFmpeg says of broken ones."""

from typing import TYPE_CHECKING, Any, TypeAlias

import av

if TYPE_CHECKING:
    AnyPacket: TypeAlias = av.Packet[Any]
else:
    AnyPacket = av.Packet  # PyAV's class takes a type argument in its stubs only


def damage_of(error: Exception) -> str:
    """What is wrong with the file, in FFmpeg's words.

    Raises the error again when memory has run out: that is the machine, or this process's limit, and no damage.
    """
    if isinstance(error, MemoryError):
        raise error
    return getattr(error, "strerror", None) or str(error)
