"""Reading (`decode`, `probe`) and writing (`write_video`) of media files; nothing else opens them."""

from avfuse.features.media.clip import Frames, Media, Waveform
from avfuse.features.media.probe import MEDIA_SUFFIXES, MediaInfo, probe
from avfuse.features.media.reader import DEFAULT_READER, READERS, MediaFile, check_reader, decode
from avfuse.features.media.sampling import frames_per_clip
from avfuse.features.media.writer import write_video

__all__ = [
    "DEFAULT_READER",
    "MEDIA_SUFFIXES",
    "READERS",
    "Frames",
    "Media",
    "MediaFile",
    "MediaInfo",
    "Waveform",
    "check_reader",
    "decode",
    "frames_per_clip",
    "probe",
    "write_video",
]
