"""A written file is what was asked for: its streams, its times, its bytes, and never half of it."""

from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest

from avfuse.features.media.writer import write_video

RATE_HZ = 44_100


def _frames(count: int = 10, height: int = 240, width: int = 320) -> list[npt.NDArray[np.uint8]]:
    """Flat grey frames, each a little brighter than the one before (over and over, 24 at a time)."""
    return [np.full((height, width, 3), 40 + 8 * (index % 24), np.uint8) for index in range(count)]


def _tone(seconds: float, channels: int = 2) -> npt.NDArray[np.float32]:
    time = np.arange(int(seconds * RATE_HZ)) / RATE_HZ
    return np.repeat(0.5 * np.sin(2 * np.pi * 440 * time)[:, None], channels, axis=1).astype(np.float32)


def _decoded_frames(path: Path) -> list[npt.NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def _decoded_sound(path: Path) -> npt.NDArray[np.float32]:
    with av.open(str(path)) as container:
        return np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)


def test_defaults_give_an_avi_like_those_of_ucf101(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", _frames(), fps=25, waveform=_tone(0.4), sample_rate_hz=RATE_HZ)

    with av.open(str(path)) as container:
        video, audio = container.streams.video[0], container.streams.audio[0]
        assert container.format.name == "avi"
        assert (video.codec_context.name, video.width, video.height, video.average_rate) == ("mpeg4", 320, 240, 25)
        assert audio.codec_context.name.startswith("mp3")
        assert (audio.rate, audio.channels) == (RATE_HZ, 2)


def test_every_frame_comes_back_in_order_and_in_its_color(tmp_path: Path) -> None:
    frames = _frames()
    frames[3][..., 0] = 230  # red, so that swapped channels would show

    decoded = _decoded_frames(write_video(tmp_path / "clip.avi", frames, fps=25))

    assert len(decoded) == len(frames)
    for written, read in zip(frames, decoded, strict=True):
        np.testing.assert_allclose(read.mean(axis=(0, 1)), written.mean(axis=(0, 1)), atol=6)


@pytest.mark.parametrize("with_sound", [True, False])
def test_frames_are_one_frame_apart_from_zero(tmp_path: Path, with_sound: bool) -> None:
    sound = {"waveform": _tone(0.4), "sample_rate_hz": RATE_HZ} if with_sound else {}

    path = write_video(tmp_path / "clip.avi", _frames(), fps=25, **sound)

    with av.open(str(path)) as container:
        times = [frame.time for frame in container.decode(video=0)]
    np.testing.assert_allclose(times, np.arange(10) / 25)


def test_sound_comes_back_at_its_length_and_pitch(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", _frames(25), fps=25, waveform=_tone(1.0), sample_rate_hz=RATE_HZ)

    sound = _decoded_sound(path)

    assert sound.shape[1] / RATE_HZ == pytest.approx(1.0, abs=0.06)
    spectrum = np.abs(np.fft.rfft(sound[0]))
    assert np.argmax(spectrum) * RATE_HZ / sound.shape[1] == pytest.approx(440, abs=2)


def test_channels_keep_their_sides(tmp_path: Path) -> None:
    left_only = _tone(0.4)
    left_only[:, 1] = 0

    sound = _decoded_sound(
        write_video(tmp_path / "clip.avi", _frames(), fps=25, waveform=left_only, sample_rate_hz=RATE_HZ)
    )

    assert np.std(sound[0]) > 50 * np.std(sound[1])


def test_without_a_waveform_there_is_no_audio_stream(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", _frames(), fps=25)

    with av.open(str(path)) as container:
        assert not container.streams.audio


def test_sound_lies_beside_the_frames_it_plays_with(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", _frames(50), fps=25, waveform=_tone(2.0), sample_rate_hz=RATE_HZ)

    latest = {"audio": 0.0, "video": 0.0}
    with av.open(str(path)) as container:
        for packet in container.demux():
            if packet.pts is not None:
                latest[packet.stream.type] = float(packet.pts * packet.time_base)
                assert abs(latest["audio"] - latest["video"]) < 0.15


@pytest.mark.parametrize("name", ["clip.avi", "clip.mkv", "clip.mp4"])
def test_equal_input_gives_equal_bytes(tmp_path: Path, name: str) -> None:
    contents = []
    for folder in ("first", "second"):
        (tmp_path / folder).mkdir()
        path = write_video(
            tmp_path / folder / name, iter(_frames()), fps=25, waveform=_tone(0.4, 1)[:, 0], sample_rate_hz=RATE_HZ
        )
        contents.append(path.read_bytes())

    assert contents[0] == contents[1]


def test_suffix_picks_the_container(tmp_path: Path) -> None:
    path = write_video(
        tmp_path / "clip.mp4", _frames(), fps=25, waveform=_tone(0.4), sample_rate_hz=RATE_HZ, audio_codec="aac"
    )

    with av.open(str(path)) as container:
        assert "mp4" in container.format.name
        assert container.streams.audio[0].codec_context.name == "aac"


def test_a_failure_leaves_the_earlier_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_video(tmp_path / "clip.avi", _frames(), fps=25)
    before = path.read_bytes()

    def breaking() -> Iterator[npt.NDArray[np.uint8]]:
        yield _frames(1)[0]
        raise RuntimeError("the source failed")

    with pytest.raises(RuntimeError, match="the source failed"):
        write_video(path, breaking(), fps=25)

    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_target_does_not_exist_while_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"

    def watching() -> Iterator[npt.NDArray[np.uint8]]:
        for frame in _frames():
            assert not path.exists()
            yield frame

    write_video(path, watching(), fps=25)
    assert path.exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": []}, "frames is empty"),
        ({"frames": [np.zeros((240, 320, 3), np.float32)]}, "frame 0 is float32"),
        ({"frames": [*_frames(1), *_frames(1, width=160)]}, "frame 1 has shape"),
        ({"fps": 0}, "fps=0"),
        ({"waveform": _tone(0.1)}, "sample_rate_hz=None"),
        ({"sample_rate_hz": RATE_HZ}, "without a waveform"),
        ({"waveform": 3 * _tone(0.1), "sample_rate_hz": RATE_HZ}, "waveform reaches 1.4"),
        ({"waveform": np.full(99, np.nan, np.float32), "sample_rate_hz": RATE_HZ}, "waveform reaches nan"),
        ({"waveform": np.zeros((9, 3), np.float32), "sample_rate_hz": RATE_HZ}, r"waveform has shape \(9, 3\)"),
        ({"waveform": np.zeros(9, np.int16), "sample_rate_hz": RATE_HZ}, "waveform has dtype int16"),
        ({"video_codec": "libmp3lame"}, "video_codec='libmp3lame'"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    arguments = {"frames": _frames(2), "fps": 25} | changes

    with pytest.raises(ValueError, match=message):
        write_video(tmp_path / "clip.avi", **arguments)  # type: ignore[arg-type]

    assert not list(tmp_path.iterdir())
