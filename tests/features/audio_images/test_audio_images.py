"""What the six images hold, and how they are drawn."""

import tracemalloc
import warnings
from pathlib import Path

import librosa
import numpy as np
import pytest
import reference_drawings
from sklearn.preprocessing import scale
from threadpoolctl import threadpool_limits

from avfuse.features.audio_images import DEFAULT_SIZES, REPRESENTATIONS, STYLES, Style, render
from avfuse.features.audio_images.raster import WHITE, Strip, colour_cells, paint, widen
from avfuse.features.audio_images.spectral import Padding, SpectralFeatures
from avfuse.features.audio_images.styles import Aligned
from avfuse.features.errors import ClipError, UsageError
from avfuse.features.media import MediaFile

RATE_HZ = 22050
REFERENCE_SIZES = {name: (500, 1000) if name == "spectral_rolloff" else (500, 1400) for name in REPRESENTATIONS}
MATRICES = {"mfcc", "mfcc_scaled", "chromagram"}


def sweep(seconds: float = 2.0, rate_hz: int = RATE_HZ, seed: int = 0) -> np.ndarray:
    """A tone that rises and falls in loudness, in a little noise; its last fifth is silent."""
    generator = np.random.default_rng(seed)
    tone = librosa.chirp(fmin=110, fmax=3500, sr=rate_hz, duration=seconds)
    loudness = np.abs(np.sin(np.linspace(0, 7, len(tone))))
    sound = 0.5 * loudness * tone + 0.02 * generator.standard_normal(len(tone))
    sound[int(0.8 * len(sound)) :] = 0
    return sound.astype(np.float32)


SOUNDS = {
    "sweep": (sweep(), 22050),
    "44.1 kHz": (sweep(3.0, 44100), 44100),
    "8 kHz": (sweep(1.0, 8000), 8000),
    "96 kHz": (sweep(0.7, 96000), 96000),
    "noise": (np.random.default_rng(1).standard_normal(30_000).astype(np.float32) / 4, 16000),
    "muffled": (librosa.resample(sweep(1.5, 8000), orig_sr=8000, target_sr=48000).astype(np.float32), 48000),
    "shorter than a window": (sweep()[9000:10_500], 22050),
}


def check_content(samples: np.ndarray, rate_hz: int, padding: Padding) -> None:
    """Against librosa's functions, called one by one."""
    features = SpectralFeatures(samples, rate_hz, padding)
    feature, how = librosa.feature, {"sr": rate_hz, "pad_mode": padding}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of windows longer than the clip, and of narrow mel bands
        mfcc = feature.mfcc(y=samples, n_mfcc=20, **how)
        expected = {
            "magnitude": np.abs(librosa.stft(samples, pad_mode=padding)),
            "spectral_centroids": feature.spectral_centroid(y=samples, **how)[0],
            "spectral_rolloff": feature.spectral_rolloff(y=samples + np.float32(0.01), roll_percent=0.85, **how)[0],
            "mfcc": mfcc,
            "mfcc_scaled": scale(mfcc.astype(np.float64), axis=1),
            "chromagram": feature.chroma_stft(y=samples, **how),
        }
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(features, name), values, rtol=1e-4, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("padding", ["constant", "reflect"])
@pytest.mark.parametrize("sound", SOUNDS)
def test_content_equals_librosas_functions_one_by_one(sound: str, padding: Padding) -> None:
    check_content(*SOUNDS[sound], padding)


def test_content_of_real_sound_equals_librosas(real_data: Path) -> None:
    for path in sorted((real_data / "vggsound-clips").glob("*.mp4"))[::6]:
        with MediaFile(path) as file:
            sound = file.read().waveform
        assert sound is not None
        check_content(sound.samples, sound.rate_hz, "constant")
        check_content(sound.samples[: 3 * sound.rate_hz], sound.rate_hz, "reflect")


def test_the_tuning_is_librosas_estimate() -> None:
    time = np.arange(2 * RATE_HZ) / RATE_HZ
    for cents in (-40, -13, 0, 20, 45):
        notes = [np.sin(2 * np.pi * time * 440 * 2 ** ((step + cents / 100) / 12)) for step in (-12, -5, 0, 4)]
        samples = np.sum(notes, axis=0).astype(np.float32) / 5
        power = np.abs(librosa.stft(samples)) ** 2
        assert SpectralFeatures(samples, RATE_HZ).tuning == librosa.estimate_tuning(
            S=power, sr=RATE_HZ, bins_per_octave=12
        )
        assert SpectralFeatures(samples, RATE_HZ).tuning == pytest.approx(cents / 100, abs=0.03)


def test_a_pitch_lights_its_own_chroma_row() -> None:
    time = np.arange(RATE_HZ) / RATE_HZ
    chroma = SpectralFeatures(np.sin(2 * np.pi * 440 * time).astype(np.float32), RATE_HZ).chromagram
    assert chroma.mean(axis=1).argmax() == 9  # A, counted from C


def compare_with_matplotlib(samples: np.ndarray, rate_hz: int, name: str, size: tuple[int, int]) -> None:
    ours = render(samples, rate_hz, style="paper", size=size, representations=[name])[name].astype(int)
    theirs = reference_drawings.draw(name, samples, rate_hz, size).astype(int)
    assert ours.shape == theirs.shape
    area = reference_drawings.plot_area(size)
    if name in MATRICES:
        close = (np.abs(ours - theirs).max(axis=2) <= 2)[area]
        assert close.mean() >= 0.98, f"{name}: {close.mean():.4f} of the pixels are within 2 levels"
    correlation = np.corrcoef(ours[area].ravel(), theirs[area].ravel())[0, 1]
    assert correlation >= 0.97, f"{name}: correlation {correlation:.4f}"
    margins = np.ones(size, dtype=bool)
    margins[area] = False
    assert np.abs(ours - theirs).max(axis=2)[margins].mean() < 4


@pytest.mark.parametrize("name", REPRESENTATIONS)
@pytest.mark.parametrize("sound", ["sweep", "44.1 kHz", "noise"])
def test_the_papers_style_is_what_matplotlib_draws(name: str, sound: str) -> None:
    compare_with_matplotlib(*SOUNDS[sound], name, REFERENCE_SIZES[name])
    compare_with_matplotlib(*SOUNDS[sound], name, (360, 360))


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_the_papers_style_of_real_sound_is_what_matplotlib_draws(name: str, real_data: Path) -> None:
    for path in sorted((real_data / "vggsound-clips").glob("*.mp4"))[::20]:
        with MediaFile(path) as file:
            sound = file.read().waveform
        assert sound is not None
        compare_with_matplotlib(sound.samples, sound.rate_hz, name, REFERENCE_SIZES[name])


def test_the_papers_curve_is_off_where_the_rate_is_not_22050() -> None:
    """Their defect, kept in their style: at 44.1 kHz the curve runs at half speed."""
    rate_hz = 44100
    samples = np.concatenate([np.zeros(rate_hz), sweep(1.0, rate_hz)]).astype(np.float32)
    pictures = {style: render(samples, rate_hz, style=style, size=(360, 360)) for style in STYLES}
    rises = {}
    for style, images in pictures.items():
        red = (images["spectral_centroids"].astype(int) @ [1, -1, -1]) > 100
        height = np.where(red.any(axis=0), 360 - red.argmax(axis=0), 0)
        rises[style] = int(np.argmax(height > height.max() - 3)) / 360
    assert rises["aligned"] == pytest.approx(0.5, abs=0.05)
    assert rises["paper"] > 0.85


def test_sizes_and_names() -> None:
    samples, rate_hz = SOUNDS["sweep"]
    images = render(samples, rate_hz, size=(100, 180))
    assert tuple(images) == REPRESENTATIONS
    assert {(image.shape, str(image.dtype)) for image in images.values()} == {((100, 180, 3), "uint8")}
    for style, size in DEFAULT_SIZES.items():
        assert render(samples, rate_hz, style=style, representations=["mfcc"])["mfcc"].shape == (*size, 3)


@pytest.mark.parametrize("style", STYLES)
def test_a_picture_does_not_depend_on_the_others_or_on_threads(style: Style) -> None:
    samples, rate_hz = SOUNDS["44.1 kHz"]
    with threadpool_limits(limits=2):
        together = render(samples, rate_hz, style=style)
    with threadpool_limits(limits=1):
        for name in reversed(REPRESENTATIONS):
            alone = render(samples, rate_hz, style=style, representations=[name])[name]
            np.testing.assert_array_equal(alone, together[name])


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(30_000),
        np.full(30_000, 0.3),
        np.eye(1, 30_000, 15_000)[0],
        np.zeros(1),
        np.ones(1),
        np.linspace(-1, 1, 100),
        np.full(5000, 1e-30),
    ],
    ids=["silence", "constant", "click", "one sample", "one loud sample", "shorter than a window", "hardly anything"],
)
@pytest.mark.parametrize("rate_hz", [100, 8000, 44100, 192_000])
@pytest.mark.parametrize("style", STYLES)
def test_odd_sounds_give_pictures_without_warnings(samples: np.ndarray, rate_hz: int, style: Style) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = render(samples, rate_hz, style=style)
    assert all(image.shape == (*DEFAULT_SIZES[style], 3) for image in images.values())


def test_silence_is_flat() -> None:
    for style in STYLES:
        images = render(np.zeros(30_000), RATE_HZ, style=style)
        assert len(np.unique(images["chromagram"].reshape(-1, 3), axis=0)) <= 2
        inked = (images["waveplot"] != 255).any(axis=(1, 2))
        assert 1 <= inked.sum() <= 3  # a thin line


@pytest.mark.parametrize(
    "bad",
    [np.array([0.0, np.nan, 0.0]), np.array([np.inf]), np.array([1e30, 0.0]), np.zeros(0), np.zeros((2, 100))],
    ids=["nan", "infinite", "absurd", "empty", "stereo"],
)
def test_samples_that_are_no_signal_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ClipError):
        render(bad, RATE_HZ)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"representations": ["spectrogram"]}, "spectrogram"),
        ({"style": "pretty"}, "pretty"),
        ({"size": (4, 100)}, "100x4"),
        ({"size": (100, 100_000)}, "100000x100"),
        ({"size": 224}, "height, width"),
        ({"size": (224, 224, 3)}, "height, width"),
    ],
)
def test_what_makes_no_sense_is_named(how: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        render(np.zeros(100), RATE_HZ, **how)
    with pytest.raises(UsageError, match="rate_hz=0"):
        render(np.zeros(100), 0)
    with pytest.raises(UsageError, match="int16"):
        render(np.zeros(100, np.int16), RATE_HZ)


def test_memory_grows_with_the_duration_and_not_faster() -> None:
    peaks = []
    for seconds in (60, 240):
        samples = np.tile(sweep(2.0, 8000), seconds // 2)
        tracemalloc.start()
        render(samples, 8000)
        peaks.append(tracemalloc.get_traced_memory()[1] / samples.nbytes)
        tracemalloc.stop()
    assert peaks[1] <= peaks[0] * 1.1
    assert peaks[1] < 8  # times the samples' own size


def test_the_matrix_has_row_zero_at_the_bottom_and_time_to_the_right() -> None:
    matrix = np.zeros((2, 4), np.float32)
    matrix[0, 3] = 1  # lowest row, last frame
    drawing = Aligned(SpectralFeatures(np.zeros(3 * 512 + 256, np.float32), RATE_HZ), (20, 35))
    image = drawing.matrix(matrix, "magma").astype(int).sum(axis=2)
    bright = image > image.min()
    # 1792 samples over 35 columns: the last frame is centred on sample 1536 and nearest from sample 1280 on.
    assert bright[10:, 25:].all()
    assert bright.sum() == 10 * 10


def test_cells_take_their_colours_from_the_matrixs_own_range() -> None:
    cells = colour_cells(np.array([[1.0, 2.0, 3.0]]), np.zeros(2, int), np.array([0, 1, 2]), "magma")
    assert cells[0, 0].tolist() == [0, 0, 3]
    assert cells[0, 2].tolist() == [251, 252, 191]
    assert (cells[0] == cells[1]).all()


def test_the_envelope_is_where_the_sound_is() -> None:
    samples = np.concatenate([np.zeros(5000), np.ones(5000)]).astype(np.float32)
    filled = (Aligned(SpectralFeatures(samples, RATE_HZ), (40, 40)).waveplot() != 255).any(axis=2).sum(axis=0)
    assert (filled[:20] <= 2).all()
    assert (filled[20:] == 40).all()


def test_the_curve_lies_on_the_clips_own_timeline() -> None:
    """A value that changes at the 8th frame changes where sample 8 * 512 is, however long the clip goes on."""
    for samples in (20 * 512, 20 * 512 + 511):
        drawing = Aligned(SpectralFeatures(np.zeros(samples, np.float32), RATE_HZ), (50, 200))
        values = np.where(np.arange(samples // 512 + 1) >= 8, 1.0, 0.0)
        image = drawing.curve(values).astype(int)
        red = (image[..., 0] - image[..., 2]) > 128
        top = red[:5].any(axis=0)
        assert np.argmax(top) == pytest.approx(200 * 8 * 512 / samples, abs=2)
        assert red[:, -1].any()  # to the very end


def test_a_round_pen_covers_as_much_of_a_steep_line_as_of_a_flat_one() -> None:
    x = np.array([0.0, 100.0])
    widths = []
    for y in ([50.0, 50.0], [0.0, 100.0]):
        strip = Strip(0, 100, 8)
        top, bottom = widen(*strip.extremes(x, np.array(y)), 2.0, 8)
        covered = strip.cover((100, 100), (top, bottom))[20:80, 20:80]
        length = 60 * np.hypot(1, (y[1] - y[0]) / 100)
        widths.append(covered.sum() / length)
    assert widths == pytest.approx([4.0, 4.0], rel=0.05)


def test_coverage_is_exact_and_paint_goes_over_what_is_there() -> None:
    strip = Strip(1, 3, 2)
    spans = np.array([0.25, 0.75, np.nan, 1.5]), np.array([2.0, 2.0, 3.0, 9.0])
    covered = strip.cover((4, 4), spans)
    np.testing.assert_allclose(covered[:, 1], [(0.75 + 0.25) / 2, 1, 0, 0], atol=1e-6)
    np.testing.assert_allclose(covered[:, 2], [0, 0.25, 0.5, 0.5], atol=1e-6)
    assert (covered[:, [0, 3]] == 0).all()
    page = np.full((4, 4, 3), WHITE, np.uint8)
    painted = paint(covered, (255, 0, 0), page)
    assert painted[1, 1].tolist() == [255, 0, 0]
    assert painted[0, 1].tolist() == [255, 128, 128]
    assert (page == 255).all()
