"""What a file says of itself, without decoding it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError

from avfuse.features import archives
from avfuse.features.archives import Member
from avfuse.features.errors import ClipError
from avfuse.features.media.packets import ffmpeg_message

MEDIA_SUFFIXES = frozenset(
    [
        ".avi",
        ".mp4",
        ".mkv",
        ".webm",
        ".mov",
        ".m4v",
        ".mpg",
        ".mpeg",
        ".ts",
        ".flv",
        ".wmv",
        ".3gp",
        ".ogv",
        ".wav",
        ".mp3",
        ".flac",
        ".ogg",
        ".opus",
        ".m4a",
        ".aac",
    ]
)
"""Suffixes by which a folder is searched for clips; what a file really is, opening it tells."""

_ANY_METADATA: dict[str, Any] = {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
"""What opens a file whose titles and tags are not in UTF-8: PyAV 19 opens every one, and reads them so."""


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """Streams and duration as the container claims them; None where it does not say."""

    duration_seconds: float | None
    has_video: bool
    width: int | None
    height: int | None
    frames_per_second: float | None
    has_audio: bool
    sample_rate_hz: int | None
    channels: int | None


MediaRef = Path | Member
"""A media file: one of its own, or one in an archive."""


def find_media(path: Path) -> MediaRef:
    """What a clip's path names. Raises ClipError (stage `open`) where it is not there, or holds nothing."""
    ref = path if path.exists() else archives.find(path)
    if ref is None:
        raise ClipError("open", "file not found")
    if ref is path and path.is_dir():
        raise ClipError("open", "is a folder")
    if file_size(ref) == 0:
        raise ClipError("open", "file is empty (0 bytes)")
    return ref


def file_size(ref: MediaRef) -> int:
    """In bytes."""
    return ref.size if isinstance(ref, Member) else ref.stat().st_size


def open_container(ref: MediaRef) -> av.container.InputContainer:
    """Open a media file for reading. Raises ClipError (stage `open`) that says what is wrong with it."""
    try:
        if isinstance(ref, Member):
            # Through a file object FFmpeg would go wherever a playlist sends it, the network included.
            nowhere = {"protocol_whitelist": "none"}
            return av.open(ref.open(), mode="r", options=nowhere, **_ANY_METADATA)
        # Without a path in the metadata FFmpeg may not name it; the file is a local file, never an address.
        return av.open(f"file:{ref}", mode="r", **_ANY_METADATA)
    except (FFmpegError, ValueError) as error:
        raise ClipError("open", f"not a readable media file ({ffmpeg_message(error)})") from error


def probe(path: Path) -> MediaInfo:
    """Read the container's header. Raises ClipError when it is no media file."""
    with open_container(find_media(path)) as container:
        video = video_stream(container)
        audio = container.streams.audio[0] if container.streams.audio else None
        rate = video.average_rate if video is not None else None
        return MediaInfo(
            duration_seconds=container.duration / av.time_base if container.duration is not None else None,
            has_video=video is not None,
            width=video.width if video is not None else None,
            height=video.height if video is not None else None,
            frames_per_second=float(rate) if rate else None,
            has_audio=audio is not None,
            sample_rate_hz=audio.rate if audio is not None else None,
            channels=audio.channels if audio is not None else None,
        )


def video_stream(container: av.container.InputContainer) -> av.video.stream.VideoStream | None:
    """The first real video stream: cover art inside a sound file is not one."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None
