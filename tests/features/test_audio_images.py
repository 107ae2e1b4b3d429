"""What the six images hold and how they are drawn."""

import warnings

import librosa
import numpy as np
import pytest

from features.audio_images import REPRESENTATIONS, render
from features.audio_images.content import AudioContent
from features.audio_images.raster import draw_curve, draw_envelope, draw_matrix
from features.errors import ClipError, UsageError

RATE_HZ = 22050


@pytest.fixture(scope="module")
def chirps() -> np.ndarray:
    generator = np.random.default_rng(0)
    sweep = librosa.chirp(fmin=110, fmax=4000, sr=RATE_HZ, duration=2)
    return (0.5 * sweep + 0.05 * generator.standard_normal(len(sweep))).astype(np.float32)


def test_content_equals_librosas_functions_one_by_one(chirps: np.ndarray) -> None:
    content = AudioContent(chirps, RATE_HZ)
    feature = librosa.feature
    mfcc = feature.mfcc(y=chirps, sr=RATE_HZ, n_mfcc=20)
    expected = {
        "spectral_centroids": feature.spectral_centroid(y=chirps, sr=RATE_HZ)[0],
        "spectral_rolloff": feature.spectral_rolloff(y=chirps + 0.01, sr=RATE_HZ, roll_percent=0.85)[0],
        "mfcc": mfcc,
        "mfcc_scaled": (mfcc - mfcc.mean(axis=1, keepdims=True)) / mfcc.std(axis=1, keepdims=True),
        "chromagram": feature.chroma_stft(y=chirps, sr=RATE_HZ),
    }
    for name, values in expected.items():
        np.testing.assert_allclose(getattr(content, name), values, rtol=1e-4, atol=1e-4, err_msg=name)


def test_six_images_of_the_asked_size(chirps: np.ndarray) -> None:
    images = render(chirps, RATE_HZ, size=(100, 180))
    assert tuple(images) == REPRESENTATIONS
    assert {(image.shape, str(image.dtype)) for image in images.values()} == {((100, 180, 3), "uint8")}


def test_rendering_is_deterministic(chirps: np.ndarray) -> None:
    first, second = render(chirps, RATE_HZ), render(chirps, RATE_HZ)
    assert all(np.array_equal(first[name], second[name]) for name in REPRESENTATIONS)


@pytest.mark.parametrize(
    "samples",
    [
        np.zeros(30_000),
        np.full(30_000, 0.3),
        np.eye(1, 30_000, 15_000)[0],
        np.zeros(1),
        np.linspace(-1, 1, 100),
    ],
    ids=["silence", "constant", "click", "one sample", "shorter than a window"],
)
@pytest.mark.parametrize("rate_hz", [8000, 44100, 192_000])
def test_odd_sounds_give_pictures_without_warnings(samples: np.ndarray, rate_hz: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = render(samples, rate_hz)
    assert all(image.shape == (224, 224, 3) for image in images.values())


@pytest.mark.parametrize("bad", [np.array([0.0, np.nan, 0.0]), np.array([np.inf]), np.zeros(0), np.zeros((2, 100))])
def test_samples_that_are_no_signal_are_refused(bad: np.ndarray) -> None:
    with pytest.raises(ClipError):
        render(bad, RATE_HZ)


def test_an_unknown_representation_is_named() -> None:
    with pytest.raises(UsageError, match="spectrogram"):
        render(np.zeros(100), RATE_HZ, representations=["spectrogram"])


def test_the_matrix_has_row_zero_at_the_bottom_and_time_to_the_right() -> None:
    matrix = np.zeros((2, 4))
    matrix[0, 3] = 1  # lowest row, last quarter
    image = draw_matrix(matrix, (20, 40), "magma").astype(int).sum(axis=2)
    bright = image > image.min()
    assert bright[10:, 30:].all()
    assert bright.sum() == 10 * 10


def test_the_envelope_is_where_the_sound_is() -> None:
    samples = np.concatenate([np.zeros(5000), np.ones(5000)])
    filled = (draw_envelope(samples, (40, 40)) != 255).any(axis=2).sum(axis=0)
    assert (filled[:20] <= 2).all()
    assert (filled[20:] == 40).all()


def test_the_curve_runs_from_its_minimum_at_the_bottom_to_its_maximum_at_the_top() -> None:
    page = np.full((50, 50, 3), 255, np.uint8)
    drawn = draw_curve(np.arange(50.0), over=page)
    rows, columns = np.nonzero((drawn != 255).any(axis=2))
    assert rows[columns == 0].mean() > 45
    assert rows[columns == 49].mean() < 5
    assert (drawn[..., 0] == 255).all()  # red stays red


def test_a_pitch_lights_its_own_chroma_row() -> None:
    time = np.arange(RATE_HZ) / RATE_HZ
    chroma = AudioContent(np.sin(2 * np.pi * 440 * time).astype(np.float32), RATE_HZ).chromagram
    assert chroma.mean(axis=1).argmax() == 9  # A, counted from C
