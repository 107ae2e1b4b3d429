"""The backbones that avfuse names itself, one file per architecture."""
