"""The only room that opens media files: reading (`decode`, `probe`) and writing (`write_video`)."""

from features.media.clip import Frames, Media, Waveform
from features.media.probe import MEDIA_SUFFIXES, MediaInfo, probe
from features.media.reader import DEFAULT_READER, READERS, MediaFile, check_reader, decode
from features.media.sampling import frames_per_clip
from features.media.writer import write_video

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
