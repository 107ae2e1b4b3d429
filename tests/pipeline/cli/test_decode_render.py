"""`avfuse decode` and `avfuse render`."""

from pathlib import Path

import numpy as np
import pytest
from command_line import avfuse
from PIL import Image

from avfuse.features.audio_images import list_audio_images
from avfuse.features.media import decode
from avfuse.manifests.demo import render_demo


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("work")
    render_demo(folder / "clips", groups=2, clips_per_group=1, classes=["DrumSteady"], n_jobs=1, progress=False)
    return folder


def test_decode_writes_arrays_and_a_contact_sheet(workplace: Path) -> None:
    clip = next((workplace / "clips").rglob("v_DrumSteady*.avi"))
    done = avfuse(
        "decode", clip, "--frames", "uniform:6", "--start", "0.4", "--end", 1.2, "-o", "out/clip.npz",
        "--contact-sheet", "out/clip.png", cwd=workplace,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = decode(clip, "uniform:6", start=0.4, end=1.2)
    assert expected.frames is not None
    assert expected.waveform is not None
    with np.load(workplace / "out" / "clip.npz") as saved:
        assert set(saved) == {"frames", "times", "audio", "rate", "reader"}
        np.testing.assert_array_equal(saved["frames"], expected.frames.pixels)
        np.testing.assert_array_equal(saved["times"], expected.frames.times)
        np.testing.assert_array_equal(saved["audio"], expected.waveform.samples)
        assert saved["audio"].dtype == np.float32
        assert int(saved["rate"]) == expected.waveform.rate_hz
        assert str(saved["reader"]) == expected.reader
    sheet = np.asarray(Image.open(workplace / "out" / "clip.png"))
    assert sheet.shape[1] > 3 * 240
    assert sheet.std() > 10
    assert "6 of 20" in done.stdout


def test_decode_leaves_out_what_is_not_there(media: Path, tmp_path: Path) -> None:
    assert avfuse("decode", media / "no_sound.avi", "-o", "clip.npz", cwd=tmp_path).returncode == 0
    with np.load(tmp_path / "clip.npz") as saved:
        assert set(saved) == {"frames", "times", "reader"}


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("good.avi", "nothing to write"),
        ("good.avi -o out.npy", "ends in .npz"),
        ("good.avi -o out.npz --frames every:2", "unknown frame sampling 'every:2'"),
        ("good.avi -o out.npz --start two", "--start two: not a number of seconds"),
        ("good.avi -o out.npz --start 2 --end 1", "a clip ends after its start"),
        ("good.avi -o out.npz --start 9", "the file ends at 2.00 s, before the clip starts"),
        ("good.avi -o out.npz --reader opencv", "unknown reader 'opencv'"),
        ("text.avi -o out.npz", "not a readable media file"),
        ("none.avi -o out.npz", "file not found"),
    ],
)
def test_a_mistake_with_decode_is_one_line(media: Path, arguments: str, says: str) -> None:
    done = avfuse("decode", *arguments.split(), cwd=media)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_render_writes_the_six_images_of_a_sound_file(tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    soundfile.write(tmp_path / "sound.wav", np.random.default_rng(0).uniform(-1, 1, 20_000), 16_000)
    assert avfuse("render", "sound.wav", "-o", "pictures", cwd=tmp_path).returncode == 0
    assert {path.stem for path in (tmp_path / "pictures").glob("*.png")} == set(list_audio_images())
    assert Image.open(tmp_path / "pictures" / "mfcc.png").size == (224, 224)
    done = avfuse("render", "sound.wav", "--style", "paper", "--size", "1400x500", "-o", "paper", cwd=tmp_path)
    assert done.returncode == 0
    assert Image.open(tmp_path / "paper" / "mfcc.png").size == (1400, 500)


def test_render_puts_all_six_on_one_sheet_over_the_frames(media: Path, tmp_path: Path) -> None:
    sheets = {}
    for clip in ("good.avi", "silent.avi"):
        done = avfuse("render", str(media / clip), "--contact-sheet", f"{clip}.png", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        sheets[clip] = np.asarray(Image.open(tmp_path / f"{clip}.png").convert("RGB")).astype(int)
    good, silent = sheets.values()
    assert good.shape == silent.shape
    assert good.shape[1] > 3 * 224
    assert good.shape[0] > 2 * 224
    differs = np.abs(good - silent).max(axis=2) > 8
    assert differs[: 2 * 240].any()
    assert not differs[-40:].any()  # the frames are the same


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ("good.avi", "--contact-sheet"),
        ("good.avi --contact-sheet {out}.txt", ".png"),
        ("good.avi -o {out} --size 100", "360x360"),
        ("good.avi -o {out} --size 4x100", "4x100"),
        ("good.avi -o {out} --start now", "now"),
        ("good.avi -o {out} --start 60", "ends"),
        ("text.avi -o {out}", "text.avi"),
    ],
)
def test_a_mistake_with_render_is_one_line(media: Path, tmp_path: Path, arguments: str, says: str) -> None:
    done = avfuse("render", *arguments.format(out=tmp_path / "out").split(), cwd=media)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr
