"""The filter bank is what transformers' feature extractor for AST gives."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soxr

from avfuse.features.errors import ClipError, UsageError
from avfuse.features.inputs.filter_bank import FRAMES, HALF_RANGE, MEAN, MEL_BANDS, RATE_HZ, filter_banks
from avfuse.features.media import Waveform, decode

Extractor = Callable[[np.ndarray], np.ndarray]


@pytest.fixture
def extractor(monkeypatch: pytest.MonkeyPatch) -> Extractor:
    module = pytest.importorskip(
        "transformers.models.audio_spectrogram_transformer.feature_extraction_audio_spectrogram_transformer"
    )
    monkeypatch.setattr(module, "is_speech_available", lambda: False)  # its numpy path, torchaudio or not
    ast = module.ASTFeatureExtractor()
    return lambda samples: ast(samples, sampling_rate=RATE_HZ, return_tensors="np")["input_values"][0]


def sound(seconds: float, rate_hz: int = RATE_HZ) -> np.ndarray:
    generator = np.random.default_rng(0)
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    tone = np.sin(2 * np.pi * (300 + 200 * time) * time) * np.exp(-time)
    return (0.5 * tone + 0.001 * generator.standard_normal(len(time)) + 0.05).astype(np.float32)


@pytest.mark.parametrize("seconds", [0.025, 0.5, 3.0, 10.24, 12.0])
def test_it_equals_transformers(seconds: float, extractor: Extractor) -> None:
    np.testing.assert_allclose(filter_banks([sound(seconds)])[0], extractor(sound(seconds)), rtol=0, atol=1e-5)


def test_it_equals_transformers_where_nothing_is_to_be_heard(extractor: Extractor) -> None:
    upsampled = soxr.resample(sound(4.0, 8000), 8000, RATE_HZ).astype(np.float32)  # its upper half is empty
    for samples in (np.zeros(50_000, np.float32), np.full(50_000, 0.3, np.float32), upsampled):
        np.testing.assert_allclose(filter_banks([samples])[0], extractor(samples), rtol=0, atol=1e-5)


def test_it_equals_transformers_on_real_clips(real_data: Path, extractor: Extractor) -> None:
    for path in sorted((real_data / "vggsound-clips").glob("*.mp4"))[::15]:
        waveform = decode(path, frames=None, rate_hz=RATE_HZ).waveform
        assert waveform is not None
        np.testing.assert_allclose(
            filter_banks([waveform.samples])[0], extractor(waveform.samples), rtol=0, atol=1e-5, err_msg=path.name
        )


def test_clips_in_a_batch_do_not_matter_to_each_other() -> None:
    clips = [sound(2.0), np.zeros(16_000, np.float32), sound(11.0)]
    together = filter_banks(clips)
    assert (together.shape, str(together.dtype)) == ((3, FRAMES, MEL_BANDS), "float32")
    for clip, bank in zip(clips, together, strict=True):
        np.testing.assert_array_equal(filter_banks([clip])[0], bank)


def test_past_its_end_a_clip_is_zero_before_the_normalisation() -> None:
    bank = filter_banks([sound(1.0)])[0]
    assert (bank[98:] == np.float32(-MEAN / HALF_RANGE)).all()  # (16 000 - 400) // 160 + 1 frames
    assert (bank[97] != bank[98]).any()


def test_a_clip_shorter_than_a_window_is_filled_up_with_silence() -> None:
    short = sound(0.01)
    padded = np.pad(short, (0, 400 - len(short)))
    np.testing.assert_array_equal(filter_banks([short]), filter_banks([padded]))


@pytest.mark.parametrize("bad", [np.zeros(0), np.array([np.nan]), np.zeros((2, 500)), np.array([1e30, 0.0])])
def test_what_is_no_signal_is_refused(bad: np.ndarray) -> None:
    with pytest.raises(ClipError, match="render"):
        filter_banks([bad])


@pytest.mark.parametrize("bad", [np.zeros(500), [np.zeros(500, np.int16)]])
def test_what_is_no_list_of_signals_is_refused(bad: object) -> None:
    with pytest.raises(UsageError, match=r"list of waveforms|int16"):
        filter_banks(bad)  # type: ignore[arg-type]


def test_one_sample_is_enough() -> None:
    sound = Waveform(samples=np.ones(1, np.float32), rate_hz=44_100).at_rate(RATE_HZ)
    assert filter_banks([sound.samples]).shape == (1, FRAMES, MEL_BANDS)
