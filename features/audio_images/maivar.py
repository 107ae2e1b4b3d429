"""The six audio images of MAiVAR (arXiv 2209.04780), in its order."""

from avfuse.features.audio_images.registry import AudioImage

REVISION = 2

IMAGES = (
    AudioImage(name="waveplot", shows="the envelope of the signal, filled", compute=None, revision=REVISION),
    AudioImage(
        name="spectral_centroids",
        shows="where the middle of the spectrum lies, red, over the faint envelope",
        compute=lambda features: features.spectral_centroids,
        revision=REVISION,
    ),
    AudioImage(
        name="spectral_rolloff",
        shows="the frequency below which 85 % of the magnitude lies, red, over the faint envelope",
        compute=lambda features: features.spectral_rolloff,
        revision=REVISION,
    ),
    AudioImage(
        name="mfcc",
        shows="the shape of the spectrum in 20 numbers per frame",
        compute=lambda features: features.mfcc,
        revision=REVISION,
    ),
    AudioImage(
        name="mfcc_scaled",
        shows="the same, each coefficient compared with itself",
        compute=lambda features: features.mfcc_scaled,
        revision=REVISION,
    ),
    AudioImage(
        name="chromagram",
        shows="how strong each of the twelve semitones is, whatever the octave",
        compute=lambda features: features.chromagram,
        colour_map="coolwarm",
        revision=REVISION,
    ),
)
