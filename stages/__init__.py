"""The two stages: `extract` (clips -> cache) and `fuse` (cache -> trained heads)."""
