"""`/ws/session`: frames of a session to calls of the session service."""

from typing import assert_never

from dispatch.consumers.base import SocketConsumer
from dispatch.messages.base import InvalidFrame
from dispatch.messages.codes import ErrorCode
from dispatch.messages.session import (
    AudioChunk,
    ClientHeartbeat,
    SessionClose,
    SessionInit,
    TtsPlayEnded,
    Utterance,
    decode_session,
)
from dispatch.service.sessions import SessionLink


class SessionConsumer(SocketConsumer):
    """One session's socket; acts for the session of its latest `session_init`."""

    kind = "session"
    link: SessionLink | None = None

    async def frame(self, data: str | bytes) -> None:
        match frame := decode_session(data):
            case SessionInit():
                if self.link is not None:
                    self.instance.sessions.leave(self.link)
                self.link = await self.instance.sessions.begin(frame, self.outbox)
            case _ if self.link is None:
                raise InvalidFrame("send session_init first")
            case _ if getattr(frame, "session_id", None) != self.link.session:
                self.refuse(
                    ErrorCode.INVALID_SESSION,
                    "this socket acts for another session; use the session_id of your session_init_ack",
                )
            case AudioChunk():
                self.link.audio(frame)
            case Utterance():
                self.link.utterance(frame)
            case ClientHeartbeat():
                self.link.heartbeat(frame)
            case TtsPlayEnded():
                self.link.played(frame)
            case SessionClose():
                link, self.link = self.link, None
                self.instance.sessions.leave(link)
                link.goodbye()
            case _:
                assert_never(frame)

    def left(self) -> None:
        if self.link is not None:
            self.instance.sessions.leave(self.link)

    def trace_id(self) -> str | None:
        return self.link.trace_id if self.link is not None else None

    def buffer_limit(self) -> int:
        return self.instance.config.scheduler.limits.session_buffer_bytes

    def frame_limit(self) -> int:
        return self.instance.config.scheduler.limits.session_frame_bytes
