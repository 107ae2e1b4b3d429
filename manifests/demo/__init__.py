"""A small synthetic data set laid out like UCF101: half of its classes are visible, half audible.

Six classes differ only in the picture and share one distribution of sound; the other six differ only in the sound and
share one distribution of picture. Neither modality alone can distinguish all twelve, so that fusion has an effect.
"""

from avfuse.manifests.demo.render import CLASSES, REVISION, DemoClip, render_demo

__all__ = ["CLASSES", "REVISION", "DemoClip", "render_demo"]
