"""Spoken sentences from espeak-ng in many voices and rooms, and simple sound classes.

espeak-ng (Debian package of that name) is only needed to make data, never to use what is shipped.
A voice is an accent and a variant; the variants in `TEST_VARIANTS` are kept for tests and never trained on.
Sounds are float32 arrays [T] in [-1, 1] at 16 kHz.
"""

from __future__ import annotations

import io
import math
import shutil
import subprocess
from random import Random

import numpy as np
import soundfile
import torch
from torchaudio.functional import resample

from studio.errors import TriptychError

RATE = 16000
ACCENTS = ("en-gb", "en-us", "en-gb-scotland", "en-gb-x-gbclan", "en-gb-x-rp", "en-029")
TRAIN_VARIANTS = (
    "m1",
    "m2",
    "m3",
    "m4",
    "m6",
    "m7",
    "f1",
    "f2",
    "f4",
    "f5",
    "Alex",
    "Andy",
    "Annie",
    "Gene",
    "Jacky",
    "Lee",
    "Mario",
    "Michael",
    "adam",
    "anika",
    "antonio",
    "belinda",
    "boris",
    "david",
    "ed",
    "edward",
    "linda",
    "max",
    "michel",
    "pablo",
    "paul",
    "quincy",
    "rob",
    "robert",
    "sandro",
    "steph",
    "travis",
    "zac",
)
TEST_VARIANTS = ("m5", "m8", "f3", "Alicia", "Hugo", "benjamin", "norbert", "marcelo")
SOUNDS = ("beep", "siren", "buzz", "clicks", "noise", "silence")


def speak(text: str, variants: tuple[str, ...], random: Random) -> tuple[np.ndarray, str]:
    """Return ``text`` spoken by a random voice at a random speed and pitch, and the voice's name.

    Raises `TriptychError` when espeak-ng is not installed.
    """
    voice = f"{random.choice(ACCENTS)}+{random.choice(variants)}"
    return say(text, voice, random.randint(135, 190), random.randint(30, 70)), voice


def say(text: str, voice: str, speed: int, pitch: int) -> np.ndarray:
    """Return ``text`` spoken by a voice (accent+variant), at words a minute and a pitch from 0 to 99.

    Raises `TriptychError` when espeak-ng is not installed.
    """
    program = shutil.which("espeak-ng")
    if program is None:
        raise TriptychError(
            "espeak-ng is not installed; it is needed to render speech (Debian package espeak-ng)"
        )
    made = subprocess.run(
        [program, "-v", voice, "-s", str(speed), "-p", str(pitch), "--stdout", text],
        capture_output=True, check=True,
    )  # fmt: skip
    # espeak-ng cannot seek back in a pipe, so its header carries no length; the samples follow at byte 44.
    wave = np.frombuffer(made.stdout[44:], np.int16).astype(np.float32) / 32768
    spoken: np.ndarray = resample(torch.from_numpy(wave.copy()), 22050, RATE).numpy()
    return spoken


def room(wave: np.ndarray, random: Random) -> np.ndarray:
    """Return the sound as a microphone in a room hears it: echoes, noise, another level, pauses."""
    fresh = np.random.default_rng(random.getrandbits(32))
    if random.random() < 0.6:
        length = int(RATE * random.uniform(0.03, 0.15))
        echo = fresh.normal(0, 1, length) * np.exp(-np.arange(length) / (length / 5))
        echo *= random.uniform(0.05, 0.25) / np.abs(echo).sum() ** 0.5
        echo[0] = 1
        # By Fourier transform: the direct sum of a second of speech costs a hundred times as much.
        size = len(wave) + length - 1
        spectrum = np.fft.rfft(wave, size) * np.fft.rfft(echo, size)
        wave = np.fft.irfft(spectrum, size)[: len(wave) + length // 2]
    before, after = (np.zeros(int(RATE * random.uniform(0.02, 0.15)), np.float32) for _ in range(2))
    wave = np.concatenate([before, wave, after])
    level = random.uniform(0.25, 0.9) / max(float(np.abs(wave).max()), 1e-6)
    ratio = random.uniform(18, 40)
    power = float(np.sqrt(np.mean((wave * level) ** 2)))
    noise = fresh.normal(0, power * 10 ** (-ratio / 20), len(wave))
    return np.clip(wave * level + noise, -1, 1).astype(np.float32)


def sound(kind: str, random: Random) -> np.ndarray:
    """Return one of `SOUNDS`, 0.6 to 1.4 seconds long, before any room."""
    seconds = random.uniform(0.6, 1.4)
    fresh = np.random.default_rng(random.getrandbits(32))
    t = np.arange(int(RATE * seconds)) / RATE
    pitch = random.uniform(400, 1400)
    if kind == "beep":
        wave = np.sin(2 * math.pi * pitch * t)
    elif kind == "siren":
        swing = np.cumsum(pitch * (1 + 0.5 * np.sin(2 * math.pi * random.uniform(1.5, 4) * t))) / RATE
        wave = np.sin(2 * math.pi * swing)
    elif kind == "buzz":
        wave = np.sign(np.sin(2 * math.pi * random.uniform(60, 160) * t))
    elif kind == "clicks":
        wave = ((t * random.uniform(5, 12)) % 1 < 0.02) * fresh.normal(0, 1, len(t))
    elif kind == "noise":
        wave = fresh.normal(0, 0.4, len(t))
    else:
        wave = fresh.normal(0, 1e-3, len(t))
    return wave.astype(np.float32)


def compressed(wave: np.ndarray, level: float | None = None) -> bytes:
    """Return the sound as an Opus stream in an Ogg file, a tenth of the size of the samples.

    ``level`` in [0, 1] compresses more: 0.95 gives about 21 kbit/s, the default about 31.
    """
    held = io.BytesIO()
    soundfile.write(held, wave, RATE, format="OGG", subtype="OPUS", compression_level=level)
    return held.getvalue()
