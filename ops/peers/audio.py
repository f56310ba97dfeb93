"""Sound in the forms that the wire knows: WAV files, raw samples and Opus "Plan A" streams.

Plan A (PROTOCOL 2.1) repeats `[u16 little-endian length][Opus packet]`, 16 kHz mono, 20 ms a packet. Cutting and
joining such streams needs nothing; making and reading the packets needs the Python package `av`.
"""

import importlib
import importlib.util
import wave
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

RATE = 16_000  #: samples per second on the wire
PACKET_MS = 20  #: what one Opus packet holds
PACKET_SAMPLES = RATE * PACKET_MS // 1000
CHUNK_PACKETS = 128  #: the real client's chunk: 2.56 s
BIT_RATE = 24_000  #: as the real client encodes
AV_HINT = "the Python package av (pip install -r requirements-speech.txt)"


class AudioError(ValueError):
    """The sound is not what its name or its place promises, or the package that could read it is missing."""


class Sound(msgspec.Struct, frozen=True):
    """Samples as they are: signed 16-bit little endian, one channel."""

    samples: bytes
    rate: int  #: samples per second

    @property
    def seconds(self) -> float:
        return len(self.samples) / 2 / self.rate


def plan_a(packets: Iterable[bytes]) -> bytes:
    """Join packets (each shorter than 64 KiB) to a Plan A stream; what is in them does not matter."""
    return b"".join(len(packet).to_bytes(2, "little") + packet for packet in packets)


def fabricate(seconds: float, *, packet_bytes: int = 60) -> bytes:
    """A Plan A stream of the given length whose packets hold no sound: all that echo nodes and tests need."""
    return plan_a([bytes(packet_bytes)] * round(seconds * 1000 / PACKET_MS))


def packets(stream: bytes) -> list[bytes]:
    """The packets of a Plan A stream, or AudioError naming the place where it breaks off."""
    found, at = [], 0
    while at < len(stream):
        begin = at + 2
        at = begin + int.from_bytes(stream[at:begin], "little")
        if at > len(stream):
            raise AudioError(f"not a Plan A stream: the packet at byte {begin - 2} is longer than what is left")
        found.append(stream[begin:at])
    return found


def seconds(stream: bytes) -> float:
    """How long a Plan A stream lasts."""
    return len(packets(stream)) * PACKET_MS / 1000


def chunks(stream: bytes, size: int = CHUNK_PACKETS) -> Iterator[bytes]:
    """Cut a Plan A stream into streams of at most `size` packets."""
    all_packets = packets(stream)
    for at in range(0, len(all_packets), size):
        yield plan_a(all_packets[at : at + size])


def read_wav(file: Path | BinaryIO) -> Sound:
    """Read 16-bit PCM with any rate and number of channels (channels after the first are left out)."""
    name = file if isinstance(file, Path) else "the WAV data"
    try:
        with wave.open(str(file) if isinstance(file, Path) else file, "rb") as wav:
            channels, width, rate = wav.getnchannels(), wav.getsampwidth(), wav.getframerate()
            data = wav.readframes(wav.getnframes())
    except (wave.Error, EOFError) as error:
        raise AudioError(f"{name} is not a PCM WAV file: {error or 'it ends too early'}") from error
    except OSError as error:
        raise AudioError(f"{name} cannot be read: {error.strerror}") from error
    if width != 2:
        raise AudioError(f"{name} has {8 * width}-bit samples; 16-bit PCM is needed")
    frames = memoryview(data[: len(data) // (2 * channels) * 2 * channels]).cast("h")
    return Sound(frames[::channels].tobytes(), rate)


def write_wav(path: Path, sound: Sound) -> None:
    """Write the sound as a mono 16-bit WAV file."""
    with wave.open(str(path), "wb") as wav:
        wav.setnchannels(1)
        wav.setsampwidth(2)
        wav.setframerate(sound.rate)
        wav.writeframes(sound.samples)


def can_encode() -> bool:
    """Whether Opus packets can be made and read here."""
    return importlib.util.find_spec("av") is not None


def encode(sound: Sound) -> bytes:
    """Opus packets of the sound, resampled to 16 kHz and padded with silence to whole packets, as Plan A."""
    av = _av()
    encoder = av.CodecContext.create("libopus", "w")
    encoder.sample_rate, encoder.layout, encoder.format, encoder.bit_rate = RATE, "mono", "s16", BIT_RATE
    encoder.options = {"application": "voip", "frame_duration": str(PACKET_MS)}
    samples = resample(sound).samples
    samples += bytes(-len(samples) % (2 * PACKET_SAMPLES))
    made: list[bytes] = []
    for at in range(0, len(samples), 2 * PACKET_SAMPLES):
        made += (bytes(packet) for packet in encoder.encode(_frame(av, samples[at : at + 2 * PACKET_SAMPLES], RATE)))
    made += (bytes(packet) for packet in encoder.encode(None))
    return plan_a(made)


def decode(stream: bytes) -> Sound:
    """The sound of a Plan A stream at 16 kHz."""
    av = _av()
    decoder = av.CodecContext.create("libopus", "r")
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    samples = bytearray()
    try:
        for packet in packets(stream):
            for frame in decoder.decode(av.Packet(packet)):
                samples += _samples(resampler.resample(frame))
    except av.FFmpegError as error:
        raise AudioError(f"the stream holds something that is not Opus: {error}") from error
    samples += _samples(resampler.resample(None))
    return Sound(bytes(samples), RATE)


def resample(sound: Sound) -> Sound:
    """The same sound at 16 kHz."""
    if sound.rate == RATE or not sound.samples:
        return Sound(sound.samples, RATE)
    av = _av()
    resampler = av.AudioResampler(format="s16", layout="mono", rate=RATE)
    made = _samples(resampler.resample(_frame(av, sound.samples, sound.rate)))
    return Sound(made + _samples(resampler.resample(None)), RATE)


def _av() -> Any:
    # By name, since the package is optional: neither the start nor the type checker may depend on it.
    try:
        return importlib.import_module("av")
    except ImportError as error:
        raise AudioError(f"Opus packets need {AV_HINT}") from error


def _frame(av: Any, samples: bytes, rate: int) -> Any:
    frame = av.AudioFrame(format="s16", layout="mono", samples=len(samples) // 2)
    frame.sample_rate = rate
    frame.planes[0].update(samples + bytes(frame.planes[0].buffer_size - len(samples)))
    return frame


def _samples(frames: Iterable[Any]) -> bytes:
    return b"".join(bytes(frame.planes[0])[: 2 * frame.samples] for frame in frames)
