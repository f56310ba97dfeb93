"""A real speech translator on the CPU, English to Spanish: pocketsphinx, apertium, espeak-ng, Opus by av.

`translate` and what it calls are plain functions that block; `Speech` runs them in worker processes, since pocketsphinx
holds the interpreter's lock for a whole utterance and would freeze an event loop that shares it.
"""

import asyncio
import importlib
import importlib.util
import multiprocessing
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache
from pathlib import Path
from typing import Any, Self, TypeVar

from ops.peers import audio
from ops.peers.audio import AudioError, Sound
from ops.peers.node import Answer, EngineError, Job, Partial

T = TypeVar("T")

PAIRS = (("en", "es"),)  #: pocketsphinx ships English only, apertium-eng-spa leads to Spanish
TOOL_SECONDS = 20  #: a program that takes longer hangs
EDGE = bytes(2 * audio.RATE * 3 // 10)  #: 300 ms of silence: the recogniser needs some to find the first and last word
# Of espeak-ng's voices the ones that pocketsphinx understands best (8 of 13 test sentences word for word).
VOICES = {"en": "en-us+f2"}
WORDS_PER_MINUTE = 140
WORKERS = os.cpu_count() or 1  #: more would only wait for each other


def missing() -> list[str]:
    """What the engine lacks on this machine, each with the way to get it; empty when it can run."""
    lacks = []
    if not audio.can_encode():
        lacks.append(audio.AV_HINT)
    if importlib.util.find_spec("pocketsphinx") is None:
        lacks.append("the Python package pocketsphinx (pip install -r requirements-speech.txt)")
    if shutil.which("apertium") is None:
        lacks.append("the program apertium (apt-get install apertium apertium-eng-spa)")
    elif "eng-spa" not in _run(["apertium", "-l"]).split():
        lacks.append("apertium's language pair eng-spa (apt-get install apertium-eng-spa)")
    if not can_speak():
        lacks.append("the program espeak-ng (apt-get install espeak-ng)")
    return lacks


def can_speak() -> bool:
    """Whether text can be turned into sound here."""
    return shutil.which("espeak-ng") is not None


def recognise(sound: Sound) -> str:
    """What was said in English, at 16 kHz; empty when nothing was understood."""
    decoder = _decoder()
    decoder.start_utt()
    decoder.process_raw(EDGE + sound.samples + EDGE, full_utt=True)
    decoder.end_utt()
    hypothesis = decoder.hyp()
    return hypothesis.hypstr if hypothesis else ""


def render(text: str) -> str:
    """The English text in Spanish."""
    # -u leaves out the marks that apertium puts before words that it does not know.
    return _run(["apertium", "-u", "eng-spa"], text).strip()


def synthesise(text: str, language: str) -> Sound:
    """The text spoken in that language."""
    with tempfile.TemporaryDirectory(prefix="speech-") as folder:
        wav = Path(folder) / "said.wav"
        voice = VOICES.get(language, language)
        _run(["espeak-ng", "-v", voice, "-s", str(WORDS_PER_MINUTE), "-w", str(wav), "--stdin"], text)
        return audio.read_wav(wav)


def translate(stream: bytes, target: str) -> Answer:
    """The whole way of one utterance, Opus to texts and Opus, with the milliseconds of each step."""
    timings: dict[str, int] = {}
    text = _timed(timings, "asr_ms", lambda: recognise(audio.decode(stream)))
    if not text:
        return Answer(text_asr="", text_translated="", tts_audio=b"", timings=timings)
    translated = _timed(timings, "nmt_ms", lambda: render(text))
    spoken = _timed(timings, "tts_ms", lambda: audio.encode(synthesise(translated, target)))
    timings["total_ms"] = sum(timings.values())
    return Answer(text_asr=text, text_translated=translated, tts_audio=spoken, timings=timings)


class Speech:
    """The engine that a Node calls; its worker processes end with `close`, or when this process dies."""

    def __init__(self, workers: int = WORKERS) -> None:
        lacks = missing()
        if lacks:
            raise EngineError("The speech engine needs " + "; ".join(lacks) + ".", "MODEL_NOT_AVAILABLE")
        self._workers = workers
        self._pool = self._start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    async def __call__(self, job: Job, partial: Partial) -> Answer:
        """Translate the job's audio; raise EngineError when that cannot be done."""
        if (job.src_lang, job.tgt_lang) not in PAIRS:
            raise EngineError(f"only en to es is spoken here, not {job.src_lang} to {job.tgt_lang}")
        pool = self._pool
        try:
            return await _whole(asyncio.wrap_future(pool.submit(translate, job.audio, job.tgt_lang)))
        except AudioError as error:
            raise EngineError(str(error)) from error
        except BrokenProcessPool as error:
            if self._pool is pool:  # else another job has found out before
                self._pool = self._start()
            raise EngineError("a worker of the speech engine died; the next job gets a new one") from error

    def close(self) -> None:
        """End the workers; what has not begun yet is dropped."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _start(self) -> ProcessPoolExecutor:
        # spawn: a forked child would inherit the event loop and its sockets.
        context = multiprocessing.get_context("spawn")
        return ProcessPoolExecutor(self._workers, mp_context=context, initializer=_begin_worker)


async def _whole(work: asyncio.Future[Answer]) -> Answer:
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        # A running worker cannot be stopped, so the slot of a cancelled job is busy until it ends.
        await asyncio.wait([work])
        raise


def _begin_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _decoder()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(0)


@cache
def _decoder() -> Any:
    return importlib.import_module("pocketsphinx").Decoder(samprate=audio.RATE, loglevel="FATAL")


def _run(command: list[str], text: str = "") -> str:
    """The program's output for the text at its input."""
    try:
        done = subprocess.run(  # noqa: S603 -- fixed programs, no shell, text through the pipe only
            command, input=text, capture_output=True, text=True, check=True, timeout=TOOL_SECONDS
        )
    except FileNotFoundError as error:
        lack = f"{command[0]} is not installed (apt-get install {command[0]})"
        raise EngineError(lack, "MODEL_NOT_AVAILABLE") from error
    except subprocess.CalledProcessError as error:
        raise EngineError(f"{command[0]} failed: {error.stderr.strip() or error.returncode}") from error
    except subprocess.TimeoutExpired as error:
        raise EngineError(f"{command[0]} took longer than {TOOL_SECONDS} s") from error
    return done.stdout


def _timed(timings: dict[str, int], name: str, step: Callable[[], T]) -> T:
    begun = time.perf_counter()
    made = step()
    timings[name] = round(1000 * (time.perf_counter() - begun))
    return made
