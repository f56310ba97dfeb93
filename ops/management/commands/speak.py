"""Says one WAV file, or one sentence, to a scheduler and prints what comes back."""

import asyncio
import time
from base64 import b64decode
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from ops.peers import audio, speech
from ops.peers.audio import AudioError
from ops.peers.node import EngineError
from ops.peers.session import RESULT_SECONDS, Frame, Session, SessionError


class Command(BaseCommand):
    help = "Say a WAV file (or a sentence, with --say) and print what was recognised and translated."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("file", nargs="?", type=Path, metavar="FILE.wav", help="16-bit PCM")
        parser.add_argument(
            "--say", metavar="TEXT", help="synthesise this with espeak-ng; FILE.wav, if given, keeps it"
        )
        parser.add_argument("--src", required=True, help="language that is spoken, e.g. en")
        parser.add_argument("--tgt", required=True, help="language that is wanted, e.g. es")
        parser.add_argument("--url", default="ws://127.0.0.1:5010/ws/session")
        parser.add_argument("--out", type=Path, metavar="RESULT.wav", help="save the translated speech")
        parser.add_argument("--whole", action="store_true", help="send one utterance frame instead of audio chunks")
        parser.add_argument("--timeout", type=float, default=RESULT_SECONDS, help=f"seconds ({RESULT_SECONDS:g})")

    def handle(self, *, file: Path | None, say: str | None, **options: Any) -> None:
        if file is None and say is None:
            raise CommandError("give a FILE.wav, or --say 'some text'")
        try:
            stream = self._stream(file, say, options["src"])
            asyncio.run(self._speak(stream, options))
        except (AudioError, EngineError, SessionError) as error:
            raise CommandError(str(error)) from error

    def _stream(self, file: Path | None, say: str | None, language: str) -> bytes:
        if say is not None:
            sound = speech.synthesise(say, language)
            if file:
                audio.write_wav(file, sound)
        else:
            assert file is not None  # noqa: S101 -- handle saw to it
            sound = audio.read_wav(file)
        if audio.can_encode():
            return audio.encode(sound)
        self.stderr.write(f"Sending packets without sound, of the same length; real ones need {audio.AV_HINT}.")
        return audio.fabricate(sound.seconds)

    async def _speak(self, stream: bytes, options: dict[str, Any]) -> None:
        begun = time.monotonic()
        async with Session(options["url"], options["src"], options["tgt"], on_frame=self._tell) as session:
            self.stdout.write(f"session     {session.session_id}, {audio.seconds(stream):.2f} s of audio")
            indices = [await session.utter(stream)] if options["whole"] else await session.say(stream)
            spoken = b""
            for index in indices:
                result = await session.result(index, seconds=options["timeout"])
                spoken += self._print(index, result, time.monotonic() - begun)
        if options["out"]:
            sound = audio.decode(spoken)
            audio.write_wav(options["out"], sound)
            self.stdout.write(f"saved       {options['out']}, {sound.seconds:.2f} s")

    def _tell(self, frame: Frame) -> None:
        match frame:
            case {"type": "asr_partial", "text": str(text)}:
                self.stdout.write(f"hearing     {text}")
            case {"type": "ui_event", "event": str(event)}:
                hint = f": {frame['hint']}" if frame.get("hint") else ""
                self.stdout.write(f"notice      {event}{hint}")

    def _print(self, index: int, result: Frame, seconds: float) -> bytes:
        """Print one ending; the audio that came with it."""
        if result["type"] == "missing_result":
            self.stdout.write(f"utterance   {index}: no result ({result.get('reason', 'no reason given')})")
            return b""
        self.stdout.write(f"recognised  {result['text_asr']}")
        self.stdout.write(f"translated  {result['text_translated']}")
        steps = {**(result.get("service_timings") or {}), **(result.get("network_timings") or {})}
        told = ", ".join(f"{name.removesuffix('_ms')} {value} ms" for name, value in steps.items() if value is not None)
        self.stdout.write(f"timing      {seconds:.2f} s in all{f'; {told}' if told else ''}")
        return b64decode(result["tts_audio"])
