"""The only room that opens media files: reading (`decode`, `probe`) and writing (`write_video`)."""

from features.media.clip import Frames, Media, Waveform
from features.media.probe import MEDIA_SUFFIXES, MediaInfo, probe
from features.media.reader import READER, READER_REVISION, decode
from features.media.sampling import parse_frames
from features.media.writer import write_video

__all__ = [
    "MEDIA_SUFFIXES",
    "READER",
    "READER_REVISION",
    "Frames",
    "Media",
    "MediaInfo",
    "Waveform",
    "decode",
    "parse_frames",
    "probe",
    "write_video",
]
