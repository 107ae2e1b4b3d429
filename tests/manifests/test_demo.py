"""The demo data set: the same bytes however it is rendered, files as promised, and no class given away."""

import inspect
import json
import statistics
from pathlib import Path

import av
import numpy as np
import pytest

from avfuse.manifests.demo import CLASSES, DemoClip, canvas, render, render_demo, scenes, sounds
from avfuse.manifests.demo.render import HEARD_CLASSES, NO_AUDIO, NOT_A_VIDEO, SEEN_CLASSES, SILENT, TRUNCATED

PROBED_CLASSES = ["BouncingStar", "FluteGallop"]


def _render(root: Path, classes: list[str], *, groups: int = 2, n_jobs: int = 1) -> list[DemoClip]:
    return render_demo(root, groups=groups, clips_per_group=1, classes=classes, n_jobs=n_jobs, progress=False)


def _contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*.avi")}


@pytest.fixture(scope="module")
def small_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of two groups of one clip."""
    root = tmp_path_factory.mktemp("small")
    _render(root, PROBED_CLASSES)
    return root


@pytest.fixture(scope="module")
def special(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, list[DemoClip]]]:
    """Five groups of the classes with special files, of which only the special files are rendered."""
    root = tmp_path_factory.mktemp("special")
    by_note: dict[str, list[DemoClip]] = {}
    for clip in _plan(groups=5):
        if clip.note:
            render._render_clip(root, clip, render._seeds_of(clip, 0))
            by_note.setdefault(clip.note, []).append(clip)
    return root, by_note


def _plan(*, groups: int = 9, clips_per_group: int = 3) -> list[DemoClip]:
    return render._plan(list(CLASSES), groups, clips_per_group)


@pytest.mark.slow
def test_bytes_do_not_depend_on_workers_or_on_the_other_classes(small_root: Path, tmp_path: Path) -> None:
    _render(tmp_path / "parallel", PROBED_CLASSES, n_jobs=2)
    _render(tmp_path / "subset", PROBED_CLASSES[1:])

    expected = _contents(small_root)
    assert _contents(tmp_path / "parallel") == expected
    assert _contents(tmp_path / "subset") == {name: expected[name] for name in expected if "FluteGallop" in name}


def test_another_seed_gives_other_bytes(small_root: Path, tmp_path: Path) -> None:
    render_demo(tmp_path, seed=1, groups=2, clips_per_group=1, classes=PROBED_CLASSES[:1], n_jobs=1, progress=False)

    for name, content in _contents(tmp_path).items():
        assert content != _contents(small_root)[name]


def test_files_are_avi_files_like_those_of_ucf101(small_root: Path) -> None:
    paths = sorted(small_root.rglob("*.avi"))

    assert [path.name for path in paths] == [
        f"v_{name}_g0{group}_c01.avi" for name in PROBED_CLASSES for group in (1, 2)
    ]
    for path in paths:
        with av.open(str(path)) as container:
            video, audio = container.streams.video[0], container.streams.audio[0]
            assert (video.codec_context.name, video.width, video.height, video.average_rate) == ("mpeg4", 320, 240, 25)
            assert audio.codec_context.name.startswith("mp3")
            assert (audio.rate, audio.channels) == (44_100, 2)
            frame_count = sum(1 for _ in container.decode(video=0))
        assert 2.0 <= frame_count / 25 <= 7.0


def test_durations_are_mostly_short() -> None:
    seconds = [2 + 5 * render._seeds_of(clip, 0).generator("length").beta(*render._LENGTH_BETA) for clip in _plan()]

    assert min(seconds) < 2.2
    assert max(seconds) > 4.5
    assert 2.6 < statistics.mean(seconds) < 3.3


def test_default_set_has_324_clips_of_12_classes_and_a_third_of_them_test() -> None:
    plan = _plan()

    assert len(plan) == len({clip.path for clip in plan}) == 324
    assert sum(clip.split == "test" for clip in plan) == 108
    assert {clip.label for clip in plan} == set(CLASSES)
    assert len(SEEN_CLASSES) == len(HEARD_CLASSES) == 6


@pytest.mark.parametrize("groups", [2, 5, 9])
def test_no_group_is_in_both_splits(groups: int) -> None:
    of_split = {
        split: {clip.group for clip in _plan(groups=groups) if clip.split == split} for split in ("train", "test")
    }

    assert of_split["train"]
    assert of_split["test"]
    assert not of_split["train"] & of_split["test"]


def test_special_files_are_few_and_almost_all_in_train() -> None:
    specials = sorted((clip.note, clip.split) for clip in _plan() if clip.note)

    assert specials == [
        (NO_AUDIO, "test"),
        (NO_AUDIO, "train"),
        (NO_AUDIO, "train"),
        (NOT_A_VIDEO, "train"),
        (SILENT, "train"),
        (TRUNCATED, "train"),
    ]


def test_few_groups_have_no_special_files() -> None:
    assert not any(clip.note for clip in _plan(groups=4))


def test_clips_noted_without_audio_have_no_audio_stream(special: tuple[Path, dict[str, list[DemoClip]]]) -> None:
    root, by_note = special
    for clip in by_note[NO_AUDIO]:
        with av.open(str(root / clip.path)) as container:
            assert container.streams.video
            assert not container.streams.audio


def test_silent_clip_has_an_audio_stream_of_nothing(special: tuple[Path, dict[str, list[DemoClip]]]) -> None:
    root, by_note = special
    with av.open(str(root / by_note[SILENT][0].path)) as container:
        sound = np.concatenate([frame.to_ndarray() for frame in container.decode(audio=0)], axis=1)

    assert sound.shape[1] > 2 * 44_100
    assert np.abs(sound).max() < 1e-4


def test_truncated_clip_ends_before_its_header_says(special: tuple[Path, dict[str, list[DemoClip]]]) -> None:
    root, by_note = special
    with av.open(str(root / by_note[TRUNCATED][0].path)) as container:
        promised = container.streams.video[0].frames
        decoded = sum(1 for _ in container.decode(video=0))

    assert 0 < decoded < 0.6 * promised


def test_file_that_is_no_video_cannot_be_opened(special: tuple[Path, dict[str, list[DemoClip]]]) -> None:
    root, by_note = special
    with pytest.raises(av.error.InvalidDataError):
        av.open(str(root / by_note[NOT_A_VIDEO][0].path))


def test_complete_set_is_not_rendered_again(small_root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in small_root.rglob("*") if path.is_file()}

    _render(small_root, PROBED_CLASSES)

    assert {path: path.stat().st_mtime_ns for path in small_root.rglob("*") if path.is_file()} == before


def test_missing_and_wrong_files_are_rendered_again_and_only_they(tmp_path: Path) -> None:
    clips = render_demo(tmp_path, groups=2, clips_per_group=2, classes=["DrumSteady"], n_jobs=1, progress=False)
    expected = _contents(tmp_path)
    missing, cut, *intact = [tmp_path / clip.path for clip in clips]
    missing.unlink()
    cut.write_bytes(cut.read_bytes()[:1000])
    before = [path.stat().st_mtime_ns for path in intact]

    render_demo(tmp_path, groups=2, clips_per_group=2, classes=["DrumSteady"], n_jobs=1, progress=False)

    assert _contents(tmp_path) == expected
    assert [path.stat().st_mtime_ns for path in intact] == before


def test_other_arguments_replace_the_earlier_set_and_spare_other_files(tmp_path: Path) -> None:
    _render(tmp_path, ["FluteGallop"])
    (tmp_path / "FluteGallop" / "mine.avi").write_bytes(b"mine")

    _render(tmp_path, ["BouncingStar"])

    assert sorted(_contents(tmp_path)) == [
        "BouncingStar/v_BouncingStar_g01_c01.avi",
        "BouncingStar/v_BouncingStar_g02_c01.avi",
        "FluteGallop/mine.avi",
    ]


def test_a_listing_cannot_name_files_outside_the_root(tmp_path: Path) -> None:
    outside = tmp_path / "outside.avi"
    outside.write_bytes(b"precious")
    root = tmp_path / "root"
    root.mkdir()
    (root / "demo.json").write_text(json.dumps({"revision": 0, "files": [{"path": "../outside.avi", "size_bytes": 8}]}))

    _render(root, ["DrumSteady"])

    assert outside.exists()


def test_rendering_leaves_no_temporary_files(small_root: Path) -> None:
    assert {path.suffix for path in small_root.rglob("*") if path.is_file()} == {".avi", ".json"}
    assert not list(small_root.rglob(".*"))


def test_seen_classes_share_one_sound_and_heard_classes_one_picture() -> None:
    """The makers of what a family shares are given the seeds and the length, and so cannot know the class."""
    parameters = ["group_rng", "clip_rng"]

    assert list(inspect.signature(sounds.neutral_sound).parameters) == [*parameters, "sample_count"]
    assert list(inspect.signature(scenes.performer_frames).parameters) == [*parameters, "frame_count"]
    assert {render._player(label) for label in SEEN_CLASSES} == {sounds.neutral_sound}
    assert {render._painter(label) for label in HEARD_CLASSES} == {scenes.performer_frames}


@pytest.mark.parametrize("label", CLASSES)
def test_every_class_has_moving_pictures_and_sound(label: str) -> None:
    generators = [np.random.default_rng(seed) for seed in range(4)]
    frames = [frame.copy() for frame in render._painter(label)(generators[0], generators[1], 5)]
    assert {(frame.shape, str(frame.dtype)) for frame in frames} == {((240, 320, 3), "uint8")}
    assert not np.array_equal(frames[0], frames[-1])
    sound = render._player(label)(generators[2], generators[3], 8820)
    assert len(sound) == 8820
    assert np.abs(sound).max() > 0.01


def test_clips_of_a_group_share_the_look_and_differ_in_the_rest() -> None:
    first, second = (clip for clip in _plan(groups=2, clips_per_group=2)[:2])
    looks = [
        scenes.draw_look(render._seeds_of(clip, 0).generator("picture", of_group=True)) for clip in (first, second)
    ]
    frames = [
        next(
            scenes.performer_frames(
                render._seeds_of(clip, 0).generator("picture", of_group=True),
                render._seeds_of(clip, 0).generator("picture"),
                1,
            )
        )
        for clip in (first, second)
    ]

    np.testing.assert_array_equal(looks[0].plate, looks[1].plate)
    assert np.any(frames[0] != frames[1])


def _pitch_slope(tune: sounds.Tune) -> float:
    """How the loudest frequency moves within a note, in hertz per step, over a clean group of notes."""
    rng = np.random.default_rng(5)
    room = sounds.draw_room(rng)
    note = sounds.Note(0, 20_000, 440.0)
    sound = sounds.play_pitched(tune, [note], room, rng, 20_000)
    pieces = sound[1000:17_000].reshape(4, 4000) * np.hanning(4000)
    peaks_hz = np.argmax(np.abs(np.fft.rfft(pieces, 32_768)), axis=1) * sounds.SAMPLE_RATE_HZ / 32_768
    return float(np.mean(np.diff(peaks_hz)))


def test_notes_glide_as_their_class_says() -> None:
    assert _pitch_slope(sounds.Tune("flute", "steady", "rising")) > 10
    assert _pitch_slope(sounds.Tune("flute", "steady", "falling")) < -10
    assert abs(_pitch_slope(sounds.Tune("flute", "steady", "flat"))) < 5


def test_a_gallop_is_long_short_short() -> None:
    room = sounds.draw_room(np.random.default_rng(0))
    lengths = {}
    for rhythm in ("steady", "gallop"):
        notes = sounds.draw_notes(rhythm, room, np.random.default_rng(1), 4 * sounds.SAMPLE_RATE_HZ)
        lengths[rhythm] = [note.length for note in notes[:-1]]

    assert max(lengths["steady"]) < 1.1 * min(lengths["steady"])
    assert max(lengths["gallop"]) > 2 * min(lengths["gallop"])


@pytest.mark.parametrize("shape", ["disc", "square", "star"])
def test_shapes_have_about_the_same_area(shape: scenes.Shape) -> None:
    offsets = np.arange(-60, 61, dtype=np.float32)

    inside = canvas.shape_distance(shape, offsets[None, :], offsets[:, None], 30.0) < 0

    assert inside.sum() == pytest.approx(np.pi * 30**2, rel=0.12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": ["Juggling"]}, "Juggling"),
        ({"classes": []}, "classes"),
        ({"groups": 1}, "groups=1"),
        ({"seed": -1}, "seed=-1"),
    ],
)
def test_a_wrong_argument_is_named_with_its_value(tmp_path: Path, arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        render_demo(tmp_path, **arguments)  # type: ignore[arg-type]
