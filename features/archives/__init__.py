"""Clips in archives (.tar, .tar.gz, .tgz) are read in place, as if these were folders: `DIR/x.tar.gz/video/a.mp4`."""

from avfuse.features.archives.indexing import ArchiveIndex, index, list_members, read_through, unread
from avfuse.features.archives.members import Folder, Member, find, folder, look
from avfuse.features.archives.paths import is_archive

__all__ = [
    "ArchiveIndex",
    "Folder",
    "Member",
    "find",
    "folder",
    "index",
    "is_archive",
    "list_members",
    "look",
    "read_through",
    "unread",
]
