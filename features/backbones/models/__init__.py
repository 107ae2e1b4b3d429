"""The built-in backbones, one file per architecture or library."""
