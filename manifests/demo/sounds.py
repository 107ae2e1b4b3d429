"""Make the demo's sounds: short tunes of a few timbres, and ambience that says nothing.

Every sound passes through the same end: reverberation, background noise, a distractor now and then, and a place in the
stereo picture. Waveforms are float32 at 44.1 kHz; mono ones have shape (samples,), finished ones (samples, 2).
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import signal

SAMPLE_RATE_HZ = 44_100

Timbre = Literal["flute", "trumpet", "drum"]
Rhythm = Literal["steady", "gallop"]
Glide = Literal["flat", "rising", "falling"]
Wave = npt.NDArray[np.float32]

_TABLE_SIZE = 8192
# Slots of a bar in beats; both rhythms play one note a beat on average, so that density does not tell them apart.
_RHYTHM_BEATS: dict[Rhythm, tuple[float, ...]] = {"steady": (1.0, 1.0, 1.0), "gallop": (1.7, 0.65, 0.65)}
_GLIDE_SIGN: dict[Glide, float] = {"flat": 0.0, "rising": 1.0, "falling": -1.0}
_MELODY_SEMITONES = (-2.0, 0.0, 0.0, 3.0)
_DISTRACTOR_PROBABILITY = 0.4
_HIGHEST_PITCH_HZ = 8000.0


@dataclass(frozen=True)
class Tune:
    """Sound of a heard class."""

    timbre: Timbre
    rhythm: Rhythm
    glide: Glide


@dataclass(frozen=True)
class Room:
    """Properties that the sounds of one group share.

    Attributes:
        pitch_hz: the pitch the tunes are built on.
        beat_seconds: time from one note to the next in a steady rhythm.
        glide_semitones: how far a gliding note goes.
        brightness: how slowly the harmonics of a trumpet or hum die away, 0 to 1.
        reverb_seconds: time in which the echo falls by 60 dB.
        reverb_level: loudness of the echo against the direct sound.
        noise_ratio_db: signal-to-noise ratio.
        noise_color: 0 for white noise to 1 for a rumble.
    """

    pitch_hz: float
    beat_seconds: float
    glide_semitones: float
    brightness: float
    reverb_seconds: float
    reverb_level: float
    noise_ratio_db: float
    noise_color: float


@dataclass(frozen=True)
class Note:
    """One note: its first sample, its length in samples, its pitch."""

    start: int
    length: int
    pitch_hz: float


def tune_sound(
    tune: Tune, group_rng: np.random.Generator, clip_rng: np.random.Generator, sample_count: int
) -> npt.NDArray[np.float32]:
    """Return the sound of a heard class, float32 (sample_count, 2) in [-1, 1].

    Args:
        tune: what is played.
        group_rng: decides pitch, tempo and room, alike for all clips of a group.
        clip_rng: decides melody, phase, tuning and noise.
        sample_count: length in samples.
    """
    room = draw_room(group_rng)
    notes = draw_notes(tune.rhythm, room, clip_rng, sample_count)
    if tune.timbre == "drum":
        dry = play_drum(notes, room, clip_rng, sample_count)
    else:
        dry = play_pitched(tune, notes, room, clip_rng, sample_count)
    return _finish(dry, room, clip_rng)


def neutral_sound(
    group_rng: np.random.Generator, clip_rng: np.random.Generator, sample_count: int
) -> npt.NDArray[np.float32]:
    """Return a hum in ambience, float32 (sample_count, 2) in [-1, 1].

    The sound of every seen class. It takes no class, so it cannot tell one; nor does it know the picture.

    Args:
        group_rng: decides hum and room, alike for all clips of a group.
        clip_rng: decides swell, tuning and noise.
        sample_count: length in samples.
    """
    room = draw_room(group_rng)
    seconds = np.arange(sample_count, dtype=np.float32) / np.float32(SAMPLE_RATE_HZ)
    pitch_hz = room.pitch_hz / 4 * clip_rng.uniform(0.9, 1.1)
    amplitudes = (0.35 + 0.6 * room.brightness) ** np.arange(6) * clip_rng.uniform(0.2, 1.0, 6)
    hum = _table_sound(_wavetable(amplitudes), (pitch_hz * seconds).astype(np.float64))
    air = _colored_noise(clip_rng, sample_count, room.noise_color)
    swell = 1 + 0.5 * np.sin(2 * np.pi * (seconds * clip_rng.uniform(0.1, 0.8) + clip_rng.uniform()))
    dry = (_level(hum) * clip_rng.uniform(0.3, 1.0) + _level(air) * swell).astype(np.float32)
    return _finish(dry, room, clip_rng)


def draw_room(rng: np.random.Generator) -> Room:
    """Draw what the clips of one group share."""
    return Room(
        pitch_hz=float(330 * 2 ** rng.uniform(0, 1.2)),
        beat_seconds=float(rng.uniform(0.28, 0.46)),
        glide_semitones=float(rng.uniform(7, 12)),
        brightness=float(rng.uniform()),
        reverb_seconds=float(rng.uniform(0.15, 0.8)),
        reverb_level=float(rng.uniform(0.1, 0.4)),
        noise_ratio_db=float(rng.uniform(2, 20)),
        noise_color=float(rng.uniform()),
    )


def draw_notes(rhythm: Rhythm, room: Room, rng: np.random.Generator, sample_count: int) -> list[Note]:
    """Lay notes in rhythm over the clip, starting somewhere within a bar; each has a slightly wrong pitch."""
    beat = room.beat_seconds * rng.uniform(0.94, 1.06) * SAMPLE_RATE_HZ
    slots = [beats * beat for beats in _RHYTHM_BEATS[rhythm]]
    detune_semitones = rng.uniform(-0.7, 0.7)
    notes: list[Note] = []
    position, slot = -rng.uniform(0, sum(slots)), 0
    while position < sample_count:
        length = slots[slot % len(slots)]
        late = rng.normal(0, 0.012) * SAMPLE_RATE_HZ
        semitones = rng.choice(_MELODY_SEMITONES) + detune_semitones + rng.normal(0, 0.15)
        start = int(max(0, position + late))
        sounding = int(min(length * 0.88, sample_count - start))
        if position >= 0 and sounding > 0:
            notes.append(Note(start, sounding, room.pitch_hz * 2 ** (semitones / 12)))
        position, slot = position + length, slot + 1
    return notes


def play_pitched(tune: Tune, notes: list[Note], room: Room, rng: np.random.Generator, sample_count: int) -> Wave:
    """Play notes on a flute (few harmonics, soft start, breath) or a trumpet (many harmonics, hard start)."""
    is_flute = tune.timbre == "flute"
    if is_flute:
        amplitudes = np.array([1.0, rng.uniform(0.1, 0.35), rng.uniform(0.03, 0.15)])
    else:
        amplitudes = (1.0 + np.arange(12)) ** -(1.3 - 0.7 * room.brightness)
    table = _wavetable(amplitudes)
    attack_seconds = rng.uniform(0.03, 0.07) if is_flute else rng.uniform(0.01, 0.025)
    octaves = _GLIDE_SIGN[tune.glide] * room.glide_semitones * rng.uniform(0.85, 1.15) / 12
    vibrato = rng.uniform(0, 0.004)
    sound = np.zeros(sample_count, np.float32)
    for note in notes:
        progress = np.linspace(0, 1, note.length)
        wobble = 1 + vibrato * np.sin(2 * np.pi * 5.5 * progress * note.length / SAMPLE_RATE_HZ)
        pitch_hz = note.pitch_hz * np.exp2(octaves * (progress - 0.5)) * wobble
        cycles = np.cumsum(np.minimum(pitch_hz, _HIGHEST_PITCH_HZ)) / SAMPLE_RATE_HZ
        envelope = _envelope(note.length, attack_seconds) * np.float32(rng.uniform(0.7, 1.0))
        sound[note.start : note.start + note.length] += _table_sound(table, cycles) * envelope
    if is_flute:
        breath = rng.standard_normal(sample_count, dtype=np.float32) * np.abs(sound)
        sound += np.float32(rng.uniform(0.02, 0.1)) * breath
    return sound


def play_drum(notes: list[Note], room: Room, rng: np.random.Generator, sample_count: int) -> Wave:
    """Play notes as strokes: a low thump that falls in pitch, and a burst of noise."""
    sound = np.zeros(sample_count, np.float32)
    thump_hz = room.pitch_hz / 6
    burst_level = rng.uniform(0.2, 0.7)
    decay_seconds = rng.uniform(0.05, 0.12)
    for note in notes:
        seconds = np.arange(note.length, dtype=np.float32) / np.float32(SAMPLE_RATE_HZ)
        cycles = thump_hz * (seconds + 0.04 * (1 - np.exp(-seconds / 0.03)))
        thump = np.sin(2 * np.pi * cycles) * np.exp(-seconds / (1.5 * decay_seconds))
        burst = rng.standard_normal(note.length, dtype=np.float32) * np.exp(-seconds / (0.5 * decay_seconds))
        stroke = rng.uniform(0.7, 1.0) * (thump + burst_level * burst)
        sound[note.start : note.start + note.length] += stroke.astype(np.float32)
    return sound


def _finish(dry: Wave, room: Room, rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """Put a mono sound into its room, with noise, perhaps a distractor, and a place between left and right."""
    wet = _level(dry + np.float32(room.reverb_level) * _reverberated(dry, room.reverb_seconds, rng))
    noise_ratio_db = room.noise_ratio_db + rng.uniform(-2, 2)
    noise = _level(_colored_noise(rng, wet.size, room.noise_color)) * np.float32(10 ** (-noise_ratio_db / 20))
    mono = wet + _distractor(rng, wet.size)
    pan = rng.uniform(0.3, 0.7) * np.pi / 2
    # The same noise, long delayed, on the right: as wide as two noises at half the work.
    channels = (np.cos(pan) * mono + 0.7 * noise, np.sin(pan) * mono + 0.7 * np.roll(noise, wet.size // 2))
    stereo = np.stack(channels, axis=1).astype(np.float32)
    peak = float(np.abs(stereo).max())
    return stereo * np.float32(rng.uniform(0.35, 0.9) / max(peak, 1e-9))


def _reverberated(dry: Wave, reverb_seconds: float, rng: np.random.Generator) -> Wave:
    """The echo alone: the sound convolved with noise that dies away, as loud as the sound."""
    length = int(reverb_seconds * SAMPLE_RATE_HZ)
    decay = np.exp(np.linspace(0, np.log(1e-3), length)).astype(np.float32)
    response = rng.standard_normal(length, dtype=np.float32) * decay
    response /= np.sqrt(np.sum(np.square(response)))
    echo: Wave = signal.oaconvolve(dry, response)[: dry.size].astype(np.float32)
    return echo


def _distractor(rng: np.random.Generator, sample_count: int) -> Wave:
    """Now and then a soft tone or a few clicks that mean nothing; silence otherwise."""
    sound = np.zeros(sample_count, np.float32)
    if rng.uniform() > _DISTRACTOR_PROBABILITY:
        return sound
    if rng.uniform() < 0.5:
        for start in rng.integers(0, sample_count, int(rng.integers(1, 5))):
            click = rng.standard_normal(400, dtype=np.float32) * np.exp(-np.arange(400, dtype=np.float32) / 80)
            sound[start : start + 400] += np.float32(1.5) * click[: sample_count - start]
        return sound
    length = min(int(rng.uniform(0.3, 0.9) * SAMPLE_RATE_HZ), sample_count)
    start = int(rng.integers(0, sample_count - length + 1))
    cycles = rng.uniform(250, 3000) * np.arange(length) / SAMPLE_RATE_HZ
    sound[start : start + length] = rng.uniform(0.2, 0.6) * np.sin(2 * np.pi * cycles) * _envelope(length, 0.05)
    return sound


def _colored_noise(rng: np.random.Generator, sample_count: int, color: float) -> Wave:
    """Noise between white (0) and a rumble (1): a one-pole low-pass whose corner falls with ``color``."""
    white = rng.standard_normal(sample_count, dtype=np.float32)
    pole = np.float32(0.97 * color)
    filtered: Wave = signal.lfilter(np.array([1 - pole], np.float32), np.array([1, -pole], np.float32), white)
    return filtered


def _wavetable(amplitudes: npt.NDArray[np.float64]) -> Wave:
    """One cycle of a sum of harmonics; reading a table costs the same however many there are."""
    angle = 2 * np.pi * np.arange(_TABLE_SIZE) / _TABLE_SIZE
    cycle: npt.NDArray[np.float64] = np.asarray(
        sum(amplitude * np.sin((index + 1) * angle) for index, amplitude in enumerate(amplitudes))
    )
    return cycle.astype(np.float32)


def _table_sound(table: Wave, cycles: npt.NDArray[np.float64]) -> Wave:
    """Read a table at running positions given in cycles."""
    sound: Wave = table[(cycles * _TABLE_SIZE).astype(np.int64) & (_TABLE_SIZE - 1)]
    return sound


def _envelope(length: int, attack_seconds: float) -> Wave:
    """Rise in the attack, a slow fall, and a short release so that a note does not end in a click."""
    attack = max(1, min(int(attack_seconds * SAMPLE_RATE_HZ), length // 2))
    envelope = np.linspace(1.0, 0.6, length, dtype=np.float32)
    envelope[:attack] *= np.linspace(0, 1, attack, dtype=np.float32)
    envelope[length - attack :] *= np.linspace(1, 0, attack, dtype=np.float32)
    return envelope


def _level(sound: Wave) -> Wave:
    """The sound at unit root mean square; silence stays silence."""
    rms = np.sqrt(np.mean(np.square(sound)))
    return sound / np.float32(max(float(rms), 1e-9))
