"""The two stages: `extract` (clips -> cache) and `fuse` (cache -> trained heads)."""

if __name__ == "stages":  # imported by its old name
    from avfuse.old_names import redirect

    redirect(__name__)
