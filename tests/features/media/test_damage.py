"""Damaged, lying and empty files: what decodes before the damage where that is most of the clip, else one line."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from avfuse.features.errors import ClipError
from avfuse.features.media import audio_decoding, decode


def plain_frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def overwrite(source: Path, target: Path, packet_of: str, rank: int, keep: int = 0) -> Path:
    """Copy a file with the bytes of one packet, after the first `keep`, replaced by noise."""
    with av.open(str(source)) as container:
        stream = getattr(container.streams, packet_of)[0]
        packet = [packet for packet in container.demux(stream) if packet.size][rank]
        first, size = packet.pos, packet.size
    content = bytearray(source.read_bytes())
    noise = np.random.default_rng(0).integers(0, 256, size - keep, dtype=np.uint8)
    content[first + keep : first + size] = noise.tobytes()
    target.write_bytes(content)
    return target


@pytest.mark.parametrize(
    ("name", "rank"), [("plain.mp4", 45), ("b_frames.mp4", 44), ("packed.avi", 46), ("plain.avi", 45)]
)
def test_what_decodes_before_the_damage_is_used(zoo: Path, tmp_path: Path, name: str, rank: int) -> None:
    broken = overwrite(zoo / name, tmp_path / name, "video", rank)
    media = decode(broken, "uniform:25", audio=False)
    assert media.frames is not None
    assert 40 <= media.frames.available < 50
    whole = plain_frames(zoo / name)
    np.testing.assert_array_equal(media.frames.pixels, [whole[rank] for rank in media.frames.indices])
    assert "damaged" in media.notes[0]


@pytest.mark.parametrize(("name", "rank"), [("plain.mp4", 20), ("b_frames.mp4", 20), ("packed.avi", 19)])
def test_too_little_before_the_damage_is_a_failure_of_the_picture_alone(
    zoo: Path, tmp_path: Path, name: str, rank: int
) -> None:
    media = decode(overwrite(zoo / name, tmp_path / name, "video", rank), "uniform:25")
    assert media.frames is None
    assert "of 50 video frames can be decoded" in str(media.frames_error)
    assert media.sound == "waveform"


def test_a_clip_that_ends_before_the_damage_does_not_feel_it(zoo: Path, tmp_path: Path) -> None:
    broken = overwrite(zoo / "plain.mp4", tmp_path / "plain.mp4", "video", 30)
    frames = decode(broken, "uniform:5", end=1.0).frames
    assert frames is not None
    assert frames.available == 25


@pytest.mark.parametrize("share", [0.15, 0.85, 0.95])
def test_damaged_sound_ends_before_the_damage_or_fails_alone(zoo: Path, tmp_path: Path, share: float) -> None:
    with av.open(str(zoo / "plain.mp4")) as container:
        count = sum(packet.size > 0 for packet in container.demux(audio=0))
    media = decode(overwrite(zoo / "plain.mp4", tmp_path / "broken.mp4", "audio", int(share * count)), "uniform:3")
    whole = decode(zoo / "plain.mp4", None).waveform
    assert media.frames is not None
    assert whole is not None
    if share < 0.8:
        assert media.sound == "undecodable"
        assert "s of sound can be decoded" in str(media.waveform_error)
    else:
        assert media.waveform is not None
        assert 0.8 * 2 < media.waveform.duration_seconds < 2
        np.testing.assert_array_equal(media.waveform.samples, whole.samples[: len(media.waveform.samples)])


def test_a_file_cut_short_is_used_when_most_of_it_is_there(zoo: Path) -> None:
    with pytest.raises(ClipError, match=r"cut short: \d+ of 50 video frames"):
        decode(zoo / "half.avi")
    media = decode(zoo / "most.avi", "uniform:5")
    assert media.frames is not None
    assert 40 <= media.frames.available < 50
    assert any("cut short" in note for note in media.notes)


def test_of_a_file_cut_short_a_clip_before_the_cut_is_whole(zoo: Path) -> None:
    frames = decode(zoo / "half.avi", "uniform:5", end=0.6).frames
    assert frames is not None
    assert frames.available == 15


def test_a_clip_after_the_end_of_its_file_is_named(zoo: Path) -> None:
    with pytest.raises(ClipError, match=r"the file ends at 2.00 s, before the clip starts"):
        decode(zoo / "plain.mp4", start=2.0, end=3.0)


@pytest.mark.parametrize(("name", "reason"), [("empty.mp4", "0 bytes"), ("text.mp4", "not a readable media file")])
def test_what_is_no_media_is_named(zoo: Path, name: str, reason: str) -> None:
    with pytest.raises(ClipError, match=reason):
        decode(zoo / name)


def test_one_frame_is_enough(zoo: Path) -> None:
    media = decode(zoo / "one_frame.mp4", "uniform:25")
    assert media.frames is not None
    assert (len(media.frames.pixels), media.frames.available, media.frames.repeated) == (25, 1, 24)
    assert media.notes == ("uniform:25 needs 25 frames, the clip has 1 frame: they repeat",)


def test_the_four_outcomes_of_sound_are_told_apart(zoo: Path, media: Path, tmp_path: Path) -> None:
    broken = overwrite(zoo / "plain.mp4", tmp_path / "broken.mp4", "audio", 12)
    sounds = [decode(path).sound for path in (zoo / "plain.mp4", media / "silent.avi", media / "no_sound.avi", broken)]
    assert sounds == ["waveform", "silent", "no audio stream", "undecodable"]


def test_sound_without_pictures_is_a_clip(zoo: Path) -> None:
    clip = decode(zoo / "sound_only.m4a", None)
    assert clip.sound == "waveform"
    part = decode(zoo / "sound_only.m4a", None, start=0.5, end=1.0).waveform
    assert part is not None
    assert part.duration_seconds == pytest.approx(0.5, abs=1e-4)


def test_longer_sound_is_cut_unless_asked_for(zoo: Path) -> None:
    cut = decode(zoo / "long_sound.mp4", None).waveform
    whole = decode(zoo / "long_sound.mp4", None, whole_audio=True).waveform
    assert cut is not None
    assert whole is not None
    assert cut.duration_seconds == pytest.approx(2.0, abs=1e-4)
    assert whole.duration_seconds == pytest.approx(3.5, abs=0.05)
    np.testing.assert_array_equal(whole.samples[: len(cut.samples)], cut.samples)


def test_late_sound_keeps_its_place_after_silence(zoo: Path) -> None:
    waveform = decode(zoo / "late_sound.mp4", None).waveform
    assert waveform is not None
    begins = round(0.57 * waveform.rate_hz)
    assert not waveform.samples[:begins].any()
    assert waveform.samples[begins + round(0.05 * waveform.rate_hz) :].any()


def test_a_requested_rate_is_given_on_the_same_timeline(zoo: Path) -> None:
    waveform = decode(zoo / "telephone.mkv", None, rate_hz=16000).waveform
    assert waveform is not None
    assert waveform.rate_hz == 16000
    assert len(waveform.samples) == 32000
    assert np.argmax(np.abs(waveform.samples) > 0.45) / 16000 == pytest.approx(1.2, abs=1e-3)


def test_a_gap_of_hours_in_the_sound_is_not_filled(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio_decoding, "MAX_GAP_SECONDS", Fraction(1, 2))
    media = decode(zoo / "late_sound.mp4", "uniform:3")
    assert media.frames is not None
    assert "claims to begin" in str(media.waveform_error)


def test_real_damage_is_reported_with_its_share(real_data: Path) -> None:
    media = decode(real_data / "clips" / "corrupted.mp4")
    assert "28 of 50 video frames" in str(media.frames_error)
