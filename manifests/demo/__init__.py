"""A small made-up data set laid out like UCF101, half of whose classes are seen and half heard.

Six classes differ only in the picture and share one distribution of sound; the other six differ only in the sound and
share one distribution of picture. Neither modality alone can tell all twelve apart, so fusion has something to show.
"""

from avfuse.manifests.demo.render import CLASSES, REVISION, DemoClip, render_demo

__all__ = ["CLASSES", "REVISION", "DemoClip", "render_demo"]
