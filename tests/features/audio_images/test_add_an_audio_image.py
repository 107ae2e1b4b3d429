"""A seventh audio image is one file, and everything that lists audio images has it."""

import re
from pathlib import Path

import numpy as np
import pytest
from checkout import ROOT
from PIL import Image
from terminal import own_files, run_here

from avfuse import features
from avfuse.features.audio_images import REPRESENTATIONS, get_audio_image, list_audio_images, render
from avfuse.features.clips import Clip
from avfuse.features.compatibility import outdated_reason
from avfuse.features.errors import UsageError
from avfuse.features.feature_names import resolve
from avfuse.features.media import decode, write_video
from avfuse.stages.extract.run import extract

DOCUMENTED = (ROOT / "docs" / "add-an-audio-image.md").read_text()
OWN = DOCUMENTED.partition("```python\n")[2].partition("```")[0]
ENVIRONMENT = {"AVFUSE_AUDIO_IMAGES": "rms.py"}
SIX = resolve([f"lite:{name}{style}" for name in REPRESENTATIONS for style in ("", "-paper")])


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the image's file and a clip that becomes louder."""
    monkeypatch.chdir(tmp_path)
    samples = (np.sin(np.arange(22050) / 5) * np.linspace(0, 0.8, 22050)).astype(np.float32)
    write_video("clip.avi", np.full((10, 64, 64, 3), 90, np.uint8), fps=10, waveform=samples, sample_rate_hz=22050)
    Path("rms.py").write_text(OWN)
    return tmp_path


def test_it_is_drawn_beside_the_six(folder: Path) -> None:
    answer = run_here(["render", "clip.avi", "-o", "pictures", "--contact-sheet", "all.png"], folder, ENVIRONMENT)
    assert answer.code == 0, answer.err
    assert {path.stem for path in Path("pictures").glob("*.png")} == {*REPRESENTATIONS, "rms"}
    red = np.asarray(Image.open("pictures/rms.png")).astype(int) @ [1, 0, -1] > 100
    first, last = red[:, 20].argmax(), red[:, 180].argmax()
    assert first > last + 50  # the curve rises


def test_it_is_extracted_as_a_feature(folder: Path) -> None:
    with own_files(ENVIRONMENT):
        names = ["lite:rms", "image:rms-paper", "image:rms:h"]
        assert "lite:rms" in [spec.name for spec in resolve(["lite:images"])]
        clips = [Clip("a", folder / "clip.avi")]
        extract(clips, resolve(names), folder / "cache", "set", device="cpu", workers=1, progress=False)
        tables = {name: features.load("set", name, folder / "cache") for name in names}
        waveform = decode("clip.avi", frames=None).waveform
        assert waveform is not None
        drawn = render(waveform.samples, waveform.rate_hz, style="paper", representations=["rms"])["rms"]
        np.testing.assert_array_equal(tables["image:rms-paper"].data[0], drawn)
        assert outdated_reason(tables["lite:rms"].spec) is None
        assert [spec.key for spec in resolve([spec.name for spec in SIX])] == [spec.key for spec in SIX]
    assert outdated_reason(tables["lite:rms"].spec) is None  # unknown here, as a user's own backbone is
    with own_files({}), pytest.raises(UsageError, match="unknown feature 'lite:rms'"):
        resolve(["lite:rms"])


@pytest.mark.parametrize("name", ["mfcc", "frames", "two words"])
def test_a_name_that_is_taken_or_no_word_is_refused(name: str) -> None:
    Path("rms.py").write_text(OWN.replace('"rms"', f'"{name}"'))
    with own_files(ENVIRONMENT), pytest.raises(UsageError, match=f"cannot be called '{name}'"):
        list_audio_images()


def test_the_page_lists_all_in_order() -> None:
    page = (ROOT / "docs" / "audio-images.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([^|]*?) \|", page, re.MULTILINE)
    assert rows == [(name, get_audio_image(name).shows) for name in list_audio_images()]
