"""Media files by path, and their headers."""

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
"""Suffixes by which a folder is searched for clips; the content is only known once a file is opened."""

_ANY_METADATA: dict[str, Any] = {"metadata_errors": "surrogateescape"} if int(av.__version__.split(".")[0]) < 19 else {}
"""Lets PyAV 18 open files whose tags are not in UTF-8; PyAV 19 always does."""


@dataclass(frozen=True, kw_only=True)
class MediaInfo:
    """Streams and duration as the container claims them; None when it does not state them."""

    duration_seconds: float | None
    has_video: bool
    width: int | None  # of the video, in pixels, as stored
    height: int | None
    frames_per_second: float | None  # the average rate
    has_audio: bool
    sample_rate_hz: int | None
    channels: int | None  # of the audio


MediaRef = Path | Member
"""A media file on disk or in an archive."""


def find_media(path: Path) -> MediaRef:
    """Find the file of a clip's path. Raises ClipError (stage `open`) when it is missing or empty."""
    ref = path if path.exists() else archives.find(path)
    if ref is None:
        raise ClipError("open", "file not found")
    if ref is path and path.is_dir():
        raise ClipError("open", "is a folder")
    if file_size(ref) == 0:
        raise ClipError("open", "file is empty (0 bytes)")
    return ref


def file_size(ref: MediaRef) -> int:
    """Size in bytes."""
    return ref.size if isinstance(ref, Member) else ref.stat().st_size


def open_container(ref: MediaRef) -> av.container.InputContainer:
    """Open a media file for reading. Raises ClipError (stage `open`) with FFmpeg's reason."""
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
    """Read the container's header. Raises ClipError when it is not a media file."""
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
    """The first video stream that is not cover art of a sound file."""
    for stream in container.streams.video:
        if not stream.disposition & av.stream.Disposition.attached_pic:
            return stream
    return None
