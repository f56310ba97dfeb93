"""Plan A streams and WAV files; Opus itself where `av` is installed, else the message that it is not."""

import importlib
import io
import math
import struct
import wave
from pathlib import Path

import pytest

from ops.peers import audio
from ops.peers.audio import AudioError, Sound

ENCODABLE = audio.can_encode()


def tone(seconds: float, rate: int) -> Sound:
    samples = (round(9000 * math.sin(2 * math.pi * 440 * at / rate)) for at in range(round(seconds * rate)))
    return Sound(b"".join(struct.pack("<h", sample) for sample in samples), rate)


def wav(*, channels: int = 1, width: int = 2, frames: bytes = b"", rate: int = 22_050) -> io.BytesIO:
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(channels)
        out.setsampwidth(width)
        out.setframerate(rate)
        out.writeframes(frames)
    file.seek(0)
    return file


def test_a_stream_falls_into_the_packets_that_it_was_made_of() -> None:
    made = [b"one", b"", b"x" * 300]
    assert audio.packets(audio.plan_a(made)) == made


def test_streams_may_be_joined_byte_by_byte() -> None:
    assert audio.seconds(audio.fabricate(1) + audio.fabricate(0.5)) == 1.5


def test_a_stream_that_breaks_off_is_refused_by_the_place() -> None:
    with pytest.raises(AudioError, match="the packet at byte 5 is longer"):
        audio.packets(audio.plan_a([b"one", b"four"])[:-1])


def test_chunks_are_of_the_real_clients_length_and_lose_nothing() -> None:
    stream = audio.fabricate(6)
    chunks = list(audio.chunks(stream))
    assert [audio.seconds(chunk) for chunk in chunks] == [2.56, 2.56, pytest.approx(0.88)]
    assert b"".join(chunks) == stream


def test_a_wav_file_keeps_its_rate_and_gives_its_first_channel(tmp_path: Path) -> None:
    stereo = struct.pack("<6h", 1, -1, 2, -2, 3, -3)
    assert audio.read_wav(wav(channels=2, frames=stereo)) == Sound(struct.pack("<3h", 1, 2, 3), 22_050)
    written = tmp_path / "out.wav"
    audio.write_wav(written, Sound(b"\1\0\2\0", 16_000))
    assert audio.read_wav(written) == Sound(b"\1\0\2\0", 16_000)


def test_what_is_no_pcm_wav_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(AudioError, match="8-bit samples; 16-bit PCM is needed"):
        audio.read_wav(wav(width=1))
    with pytest.raises(AudioError, match="is not a PCM WAV file"):
        audio.read_wav(io.BytesIO(b"ID3 something else"))
    with pytest.raises(AudioError, match=r"missing\.wav cannot be read: No such file"):
        audio.read_wav(tmp_path / "missing.wav")


def test_opus_keeps_the_length_and_the_loudness_of_a_tone_or_says_what_is_missing() -> None:
    sound = tone(1.0, 22_050)
    if not ENCODABLE:
        with pytest.raises(AudioError, match="pip install -r requirements-speech"):
            audio.encode(sound)
        return
    stream = audio.encode(sound)
    assert audio.seconds(stream) == pytest.approx(1.0, abs=0.05)
    assert len(stream) < 5_000, "24 kbit/s"
    heard = audio.decode(stream)
    assert heard.rate == 16_000
    assert heard.seconds == pytest.approx(1.0, abs=0.05)
    middle = struct.unpack("<8000h", heard.samples[8_000:24_000])
    assert max(middle) == pytest.approx(9000, rel=0.2)


def test_without_av_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(importlib, "import_module", gone)
    with pytest.raises(AudioError, match=r"Opus packets need the Python package av \(pip install"):
        audio.decode(audio.fabricate(1))
