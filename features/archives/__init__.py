"""Clips in archives (.tar, .tar.gz, .tgz) are read in place, as if these were folders: `DIR/x.tar.gz/video/a.mp4`."""

from avfuse.features.archives.indexing import ArchiveIndex, index, index_all, list_members, unindexed
from avfuse.features.archives.members import Folder, Member, find, folder, stat_member
from avfuse.features.archives.paths import is_archive

__all__ = [
    "ArchiveIndex",
    "Folder",
    "Member",
    "find",
    "folder",
    "index",
    "index_all",
    "is_archive",
    "list_members",
    "stat_member",
    "unindexed",
]
