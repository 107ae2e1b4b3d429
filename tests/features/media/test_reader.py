"""Decoding gives the frames and samples asked for, or says why not."""

import struct
from pathlib import Path

import av
import numpy as np
import pytest
from scipy.io import wavfile

from avfuse.features.errors import ClipError, UsageError
from avfuse.features.media import MediaFile, decode, probe, write_video
from avfuse.features.media.sampling import segment_centres


def sequential_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_frames_are_those_of_a_plain_sequential_decode(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"clip{suffix}"
    frames = np.random.default_rng(0).integers(0, 255, (61, 48, 64, 3), dtype=np.uint8)
    codec = "mpeg4" if suffix == ".avi" else "libx264"
    write_video(path, frames, fps=25, video_codec=codec)
    everything = sequential_frames(path)
    decoded = decode(path, "uniform:7").frames
    assert decoded is not None
    assert decoded.available == 61
    assert decoded.indices.tolist() == segment_centres(61, 7).tolist()
    np.testing.assert_array_equal(decoded.pixels, [everything[i] for i in decoded.indices])
    np.testing.assert_allclose(decoded.times, decoded.indices / 25, atol=2e-3)


def test_an_interval_takes_only_its_own_frames_and_sound(media: Path) -> None:
    clip = decode(media / "good.avi", "uniform:5", start=0.4, end=1.2)
    assert clip.frames is not None
    assert clip.waveform is not None
    assert clip.frames.times.min() >= 0.4
    assert clip.frames.times.max() < 1.2
    assert clip.waveform.duration_seconds == pytest.approx(0.8, abs=1e-3)


def test_an_interval_between_two_frames_gives_the_one_on_display(media: Path) -> None:
    frames = decode(media / "good.avi", "uniform:3", start=0.41, end=0.42).frames
    assert frames is not None
    assert (frames.indices.tolist(), frames.times.tolist()) == ([0, 0, 0], [0.4, 0.4, 0.4])


def test_too_few_frames_repeat(tmp_path: Path) -> None:
    path = tmp_path / "one.avi"
    write_video(path, np.full((1, 48, 64, 3), 90, np.uint8), fps=25)
    frames = decode(path, "uniform:25").frames
    assert frames is not None
    assert (len(frames.pixels), frames.available) == (25, 1)


def test_sound_keeps_pitch_level_and_length(media: Path) -> None:
    waveform = decode(media / "good.avi", frames=None).waveform
    assert waveform is not None
    assert waveform.rate_hz == 44100
    assert waveform.duration_seconds == pytest.approx(2.0, abs=0.05)
    spectrum = np.abs(np.fft.rfft(waveform.samples))
    peak_hz = spectrum.argmax() * waveform.rate_hz / len(waveform.samples)
    assert peak_hz == pytest.approx(440, abs=2)
    assert np.abs(waveform.samples).max() == pytest.approx(0.4, abs=0.05)


def test_silence_is_a_waveform_and_no_stream_is_none(media: Path) -> None:
    silent, absent = decode(media / "silent.avi"), decode(media / "no_sound.avi")
    assert silent.waveform is not None
    assert silent.waveform.is_silent
    assert (absent.waveform, absent.has_audio, absent.waveform_error) == (None, False, None)


def test_a_sound_file_is_a_clip_without_frames(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (8000, 2)).astype(np.float32)
    soundfile.write(tmp_path / "sound.wav", samples, 8000, subtype="FLOAT")
    clip = decode(tmp_path / "sound.wav")
    assert clip.frames is None
    assert "no video stream" in str(clip.frames_error)
    assert clip.waveform is not None
    np.testing.assert_allclose(clip.waveform.samples, samples.mean(axis=1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing.avi", "not found"),
        ("empty.avi", "empty"),
        ("text.avi", "not a readable media file"),
        ("cut_short.avi", "cut short"),
        (".", "is a folder"),
    ],
)
def test_what_cannot_be_read_says_why(media: Path, name: str, reason: str) -> None:
    with pytest.raises(ClipError, match=reason):
        decode(media / name)


def test_a_cut_short_mp4_is_found_by_its_index(tmp_path: Path) -> None:
    whole, cut = tmp_path / "whole.mp4", tmp_path / "cut.mp4"
    noise = np.random.default_rng(0).integers(0, 255, (50, 48, 64, 3), dtype=np.uint8)
    write_video(tmp_path / "plain.mp4", noise, fps=25, video_codec="libx264")
    with av.open(tmp_path / "plain.mp4") as source, av.open(whole, "w", options={"movflags": "+faststart"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(source.streams.video[0]):
            if packet.size:
                packet.stream = stream
                target.mux(packet)
    decode(whole)
    content = whole.read_bytes()
    cut.write_bytes(content[: len(content) // 2])
    with pytest.raises(ClipError, match="cut short"):
        decode(cut)


def test_an_edit_list_that_hides_a_third_of_the_frames_is_no_damage(real_data: Path) -> None:
    frames = decode(real_data / "vggsound-clips" / "bpSzLZtliFo_000005.mp4", audio=False).frames
    assert frames is not None
    assert frames.available == 301


@pytest.mark.parametrize(("start", "end"), [(-1, None), (2, 1), (1, 1), (float("nan"), None)])
def test_a_senseless_interval_is_refused(media: Path, start: float, end: float | None) -> None:
    with pytest.raises(UsageError):
        decode(media / "good.avi", start=start, end=end)


@pytest.mark.parametrize(
    ("name", "seconds"), [("good.avi", 2.0), ("no_sound.avi", 2.0), ("deep.mp4", 2.0), ("sound.wav", 1.5)]
)
@pytest.mark.parametrize("held", [True, False])
def test_a_file_says_how_long_its_picture_or_else_its_sound_is(
    media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, seconds: float, held: bool
) -> None:
    write_video(tmp_path / "deep.mp4", np.zeros((50, 48, 64, 3), np.uint8), fps=25, video_codec="libx264")
    wavfile.write(tmp_path / "sound.wav", 16000, np.zeros(24000, np.int16))
    if not held:
        monkeypatch.setattr("avfuse.features.media.reader.MAX_BUFFERED_BYTES", 0)
    with MediaFile(next(path for path in (media / name, tmp_path / name) if path.exists())) as file:
        assert float(file.duration) == pytest.approx(seconds, abs=1e-3 if held else 0.05)  # sound may go on


def test_probe_reads_the_header(media: Path) -> None:
    info = probe(media / "good.avi")
    assert (info.width, info.height, info.frames_per_second, info.has_audio) == (64, 48, 25.0, True)
    assert not probe(media / "no_sound.avi").has_audio


def test_real_clips_decode_as_a_sequential_decode_does(real_data: Path) -> None:
    for path in sorted((real_data / "vggsound-clips").glob("*.mp4"))[:4]:
        everything = sequential_frames(path)
        frames = decode(path, "uniform:25", audio=False).frames
        assert frames is not None
        assert frames.available == len(everything)
        np.testing.assert_array_equal(frames.pixels, [everything[i] for i in segment_centres(len(everything), 25)])


def test_ucf101_timestamps_that_do_not_rise_are_replaced_by_index_over_rate(real_data: Path) -> None:
    frames = decode(real_data / "clips" / "v_ApplyEyeMakeup_g01_c01.avi", "uniform:25", audio=False).frames
    assert frames is not None
    np.testing.assert_allclose(frames.times, frames.indices / 25)


def test_tags_in_any_encoding_are_no_obstacle(tmp_path: Path) -> None:
    """A title in Latin-1, as cameras and older programs write it, in the INFO list of a RIFF file."""
    path = tmp_path / "tagged.wav"
    wavfile.write(path, 8000, (8000 * np.sin(np.arange(8000) / 5)).astype(np.int16))
    title = "\xc9t\xe9 \xe0 la plage".encode("latin-1") + b"\0"
    entry = b"INAM" + struct.pack("<I", len(title)) + title + b"\0" * (len(title) % 2)
    content = path.read_bytes()
    head, samples = content[12:36], content[36:]
    chunks = b"WAVE" + head + b"LIST" + struct.pack("<I", 4 + len(entry)) + b"INFO" + entry + samples
    path.write_bytes(b"RIFF" + struct.pack("<I", len(chunks)) + chunks)
    assert probe(path).has_audio
    sound = decode(path).waveform
    assert sound is not None
    assert len(sound.samples) == 8000
