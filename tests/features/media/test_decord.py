"""decord is used where it is right, and refused in one line where it would be wrong."""

import sys
from pathlib import Path

import numpy as np
import pytest
from media_zoo import READABLE

from avfuse.features.errors import UsageError
from avfuse.features.media import decode
from avfuse.features.media import decord_reader as reading

pytest.importorskip("decord")

REFUSED = {
    "b_frames.avi": "AVI does not say in which order",
    "packed.avi": "AVI does not say in which order",
    "h264.avi": "AVI does not say in which order",
    "mpeg4.mp4": "loses count in MPEG-4 with B-frames",
    "edit_list.mp4": "an edit list hides 35 of its frames",
    "broadcast.ts": "mpegts has no index",
    "h264.ts": "mpegts has no index",
    "ten_bit.mp4": "more than 8 bits",
    "rotated.mp4": "turned upright",
}


@pytest.mark.parametrize("name", READABLE)
def test_it_gives_the_right_frames_or_none(zoo: Path, name: str) -> None:
    ours, theirs = decode(zoo / name, "uniform:25"), decode(zoo / name, "uniform:25", reader="decord")
    if name == "av1.mp4":
        assert str(theirs.frames_error).startswith("decode: decord: ")  # it has no decoder for it
        return
    if name in REFUSED:
        assert theirs.frames is None
        assert REFUSED[name] in str(theirs.frames_error)
        assert "use --reader pyav" in str(theirs.frames_error)
    else:
        assert ours.frames is not None
        assert theirs.frames is not None
        difference = np.abs(ours.frames.pixels.astype(int) - theirs.frames.pixels).mean(axis=(1, 2, 3))
        assert difference.max() < 1
        np.testing.assert_array_equal(ours.frames.times, theirs.frames.times)
    assert ours.waveform is not None
    assert theirs.waveform is not None
    np.testing.assert_array_equal(ours.waveform.samples, theirs.waveform.samples)


def test_who_read_a_clip_is_kept(zoo: Path) -> None:
    assert decode(zoo / "plain.mp4", reader="decord").reader == "decord-1"
    assert decode(zoo / "plain.mp4").reader == "pyav-2"


def test_an_unknown_reader_is_named(zoo: Path) -> None:
    with pytest.raises(UsageError, match="unknown reader 'opencv': choose from pyav, decord"):
        decode(zoo / "plain.mp4", reader="opencv")


def test_without_decord_the_way_out_is_named(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "decord", None)
    with pytest.raises(UsageError, match="pip install decord"):
        decode(zoo / "plain.mp4", reader="decord")


def test_a_failure_inside_decord_is_the_clips(zoo: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "untrusted_reason", lambda *_: None)
    media = decode(zoo / "edit_list.mp4", reader="decord")
    assert "decord counts 90 frames, the file has 55" in str(media.frames_error)


@pytest.mark.slow
def test_on_real_clips_it_is_never_wrong(real_data: Path) -> None:
    refused = 0
    for path in sorted((real_data / "vggsound-clips").glob("*.mp4"))[::6]:
        theirs = decode(path, "uniform:25", audio=False, reader="decord")
        if theirs.frames is None:
            refused += 1
            assert "cannot be trusted" in str(theirs.frames_error)
            continue
        ours = decode(path, "uniform:25", audio=False)
        assert ours.frames is not None
        difference = np.abs(ours.frames.pixels.astype(int) - theirs.frames.pixels).mean(axis=(1, 2, 3))
        assert difference.max() < 1, path.name
    assert refused
