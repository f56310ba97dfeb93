"""Sessions whose sockets are open here: speech in, one terminal event per utterance out.

A `SessionLink` is where the end of an utterance is decided (P1): the first end wins, ends go out in order, and the
deadline on this process's monotonic clock is the last word.
"""

import asyncio
import base64
import hashlib
import secrets
import uuid
from collections import Counter, deque
from typing import Any

import structlog

from dispatch import languages, metrics
from dispatch.connections.groups import Groups
from dispatch.connections.session import Claim, Utterance, UtteranceTable
from dispatch.cutting import Cut, Cutter
from dispatch.errors import BrokenScript, DependencyDown
from dispatch.messages.base import ErrorFrame, Features, Frame, InvalidFrame, audio_bytes, encode
from dispatch.messages.codes import ErrorCode, hint
from dispatch.messages.node import AssignBody, JobResult, Pipeline, assign_body, decode_node
from dispatch.messages.results import is_empty_result, result_frame
from dispatch.messages.session import (
    AsrPartial,
    AudioChunk,
    ClientHeartbeat,
    MissingResult,
    Progress,
    ServerHeartbeat,
    SessionCloseAck,
    SessionInit,
    SessionInitAck,
    TranslationResult,
    TtsPlayEnded,
    UiEvent,
)
from dispatch.messages.session import (
    Utterance as UtteranceFrame,
)
from dispatch.service.core import Core
from dispatch.service.jobs import Jobs
from dispatch.service.outbox import Outbox
from dispatch.service.tasks import Tasks
from dispatch.store.cells import Answer, JobView
from dispatch.store.script import Call
from dispatch.switchboard import Exchange

log = structlog.get_logger(__name__)

_AGAIN_SECONDS = 0.2  #: between two tries while Redis does not answer
_WATCH_SECONDS = 1.0  #: utterances younger than this are not asked about
_ANSWER_SECONDS = 3.0  #: how long a finished job's answer may be under way without lying in Redis
_PARTIAL_MS = 1000

TAKEN_OVER = 4001


class SessionLink:
    """One session's connection."""

    def __init__(self, core: Core, jobs: Jobs, outbox: Outbox, init: SessionInit, *, session: str, epoch: int) -> None:
        self.session = session
        self.epoch = epoch
        self.owner_key = core.keys.session_owner(session)
        self.outbox = outbox
        self.trace_id = init.trace_id or str(uuid.uuid4())
        self._core = core
        self._jobs = jobs
        self._init = init
        self._tenant = _tenant(init.tenant_id)
        self._src = languages.normalise(init.src_lang)
        self._tgt = languages.normalise(init.tgt_lang)
        self._auto = tuple(map(languages.normalise, init.auto_langs or ()))
        self._cutter = Cutter(core.config.scheduler.web_task_segmentation)
        self._cut_timer: asyncio.TimerHandle | None = None
        self._sent_by_client_ms: int | None = None
        self._table: UtteranceTable[Frame] = UtteranceTable(
            limit=core.config.scheduler.limits.utterances_open_per_session
        )
        self._by_job: dict[str, int] = {}
        self._goes: Counter[int] = Counter()
        self._groups = Groups(session)
        self._lane: deque[Utterance] = deque()
        self._submitting: asyncio.Task[None] | None = None
        self._tasks = Tasks("session")
        self._gone = False
        self.idle = asyncio.Event()
        self.idle.set()

    @property
    def languages(self) -> tuple[str, str]:
        """Source and target language."""
        return self._src, self._tgt

    # --- frames in ------------------------------------------------------------------------------------------------

    def heartbeat(self, frame: ClientHeartbeat) -> None:
        """Answer that we live, too."""
        self.outbox.put(encode(ServerHeartbeat(session_id=self.session, timestamp=self._core.clock.wall_ms())))

    def played(self, frame: TtsPlayEnded) -> None:
        """The client has played a group to its end."""
        self._groups.playback_ended(frame.group_id, now=self._core.clock.monotonic())

    def audio(self, frame: AudioChunk) -> None:
        """A piece of the stream. Audio that is no base64 counts as none (PROTOCOL 2.1); the sender is told."""
        try:
            data = audio_bytes(frame.payload, field="payload") if frame.payload else b""
        except InvalidFrame as error:
            metrics.frames_refused.labels("session", "bad_base64").inc()
            self.outbox.put(encode(self._error(ErrorCode.INVALID_MESSAGE, str(error))))
            data = b""
        if frame.client_timestamp_ms is not None:
            self._sent_by_client_ms = max(0, self._core.clock.wall_ms() - frame.client_timestamp_ms)
        self._cutter.feed(data, is_final=frame.is_final, now=self._core.clock.monotonic())
        self._cut()

    def _cut(self) -> None:
        """Take what is due from the cutter, and come back when the next piece will be."""
        now = self._core.clock.monotonic()
        for cut in self._cutter.due(now):
            self._accept_cut(cut)
        if self._cut_timer is not None:
            self._cut_timer.cancel()
            self._cut_timer = None
        deadline = self._cutter.next_deadline()
        if deadline is not None and not self._gone:
            self._cut_timer = asyncio.get_running_loop().call_later(max(0.001, deadline - now), self._cut)

    def _accept_cut(self, cut: Cut) -> None:
        metrics.utterances_cut.labels(cut.reason).inc()
        self._accept(
            cut.index,
            audio=base64.b64encode(cut.audio).decode(),
            src=self._src,
            tgt=self._tgt,
            audio_format="opus",
            sample_rate=16_000,
            dialect=self._init.dialect,
            features=self._init.features,
            trace_id=self.trace_id,
            key=None,
            retry=False,
            padding_ms=cut.padding_ms,
            flag=cut.flag,
        )

    def utterance(self, frame: UtteranceFrame) -> None:
        """A whole utterance in one frame, treated like a manual cut (PROTOCOL 2.1)."""
        try:
            audio_bytes(frame.audio, field="audio")
        except InvalidFrame as error:
            metrics.frames_refused.labels("session", "bad_base64").inc()
            self.outbox.put(encode(self._error(ErrorCode.INVALID_MESSAGE, str(error), index=frame.utterance_index)))
            return
        self._accept(
            frame.utterance_index,
            audio=frame.audio,
            src=languages.normalise(frame.src_lang),
            tgt=languages.normalise(frame.tgt_lang),
            audio_format=frame.audio_format,
            sample_rate=frame.sample_rate,
            dialect=frame.dialect,
            features=frame.features or self._init.features,
            trace_id=frame.trace_id or self.trace_id,
            key=frame.idempotency_key,
            retry=bool(frame.retry),
            padding_ms=self._core.config.scheduler.web_task_segmentation.edge_stabilization.padding_manual_ms,
            flag="is_manual_cut",
        )

    # --- an utterance begins --------------------------------------------------------------------------------------

    def _accept(
        self,
        index: int,
        *,
        audio: str,
        src: str,
        tgt: str,
        audio_format: str,
        sample_rate: int,
        dialect: str | None,
        features: Features | None,
        trace_id: str,
        key: str | None,
        retry: bool,
        padding_ms: int,
        flag: str,
    ) -> None:
        now = self._core.clock.monotonic()
        fingerprint = hashlib.blake2b(f"{src} {tgt} {audio}".encode(), digest_size=16).digest()
        go = self._goes[index] + retry
        request = f"{key or f'#{index}'} again {go}"  # no key of a client has a # or a space in it
        match self._table.claim(index, fingerprint, key=request, retry=retry):
            case Claim.REPEATED:
                metrics.duplicate_requests.inc()
                return
            case Claim.COLLIDES:
                text = f"utterance_index {index}, or its idempotency_key, was used for other speech; take new ones"
                self.outbox.put(encode(self._error(ErrorCode.INVALID_MESSAGE, text, index=index)))
                return
            case Claim.TOO_MANY:
                text = f"{len(self._table)} utterances of this session are open; wait for some results"
                self.outbox.put(encode(self._error(ErrorCode.NODE_OVERLOADED, text, index=index)))
                return
        if retry:
            self._goes[index] = go
        self._cutter.next_index = max(self._cutter.next_index, index + 1)
        services = ["asr", "nmt", "tts"]
        if features and features.speaker_identification:
            services.append("tone")
        kind = languages.kind_tokens(src, tgt, self._auto if src == languages.AUTO else (), services)
        body = assign_body(
            AssignBody(
                session_id=self.session,
                utterance_index=index,
                src_lang=src,
                tgt_lang=tgt,
                dialect=dialect,
                features=features,
                pipeline=Pipeline(),
                audio=audio,
                audio_format=audio_format,
                sample_rate=sample_rate,
                mode=self._init.mode,
                lang_a=self._init.lang_a,
                lang_b=self._init.lang_b,
                auto_langs=self._init.auto_langs,
                enable_streaming_asr=True,
                partial_update_interval_ms=_PARTIAL_MS,
                trace_id=trace_id,
                padding_ms=padding_ms,
                **{flag: True},
            )
        )
        utterance = Utterance(
            index=index,
            target=tgt,
            kind=f"{kind}|{self._tenant}",
            key=request,
            shared=key is not None,
            fingerprint=fingerprint,
            body=body,
            trace_id=trace_id,
            accepted_at=now,
            deadline_at=now + self._core.config.scheduler.utterance_deadline_seconds,
            job=f"job-{secrets.token_hex(16)}",
            cell="",
            sent_by_client_ms=self._sent_by_client_ms,
        )
        self._sent_by_client_ms = None
        self._table.begin(utterance)
        self.idle.clear()
        self._submit(utterance)

    def _submit(self, utterance: Utterance) -> None:
        """Into the lane: a session's utterances are submitted one after the other, in order."""
        if not any(each is utterance for each in self._lane):
            self._lane.append(utterance)
        if self._submitting is None or self._submitting.done():
            self._submitting = self._tasks.spawn(self._submit_lane())

    def lost(self) -> None:
        """Redis has lost its data: what waited is submitted again, at once and before anything newer."""
        waited = [each for each in self._table.open() if each.submitted and each.position and each not in self._lane]
        if waited:
            self._lane = deque(sorted((*waited, *self._lane), key=lambda each: each.index))
            if self._submitting is None or self._submitting.done():
                self._submitting = self._tasks.spawn(self._submit_lane())

    async def _submit_lane(self) -> None:
        while self._lane and not self._gone:
            utterance = self._lane[0]
            if not self._is_open(utterance):
                self._lane.popleft()
                continue
            self._by_job[utterance.job] = utterance.index
            try:
                answer = await self._jobs.submit(self.session, utterance)
            except DependencyDown:
                self._unheard(utterance)
                await asyncio.sleep(_AGAIN_SECONDS)
                continue
            except BrokenScript as error:
                # It would break again: this utterance ends, and those behind it have their turn.
                log.error("submit_broken", job=utterance.job, problem=str(error))
                self._lane.remove(utterance)
                self.ended(utterance.job, "failed", ErrorCode.INTERNAL_ERROR)
                continue
            if answer.word == "other_life":
                continue  # the lane begins with what was lost by now
            self._lane.remove(utterance)
            utterance.submitted, utterance.unheard_since = True, None
            self._submitted(utterance, answer)

    def _submitted(self, utterance: Utterance, answer: Answer[JobView]) -> None:
        if not self._is_open(utterance):
            # Ended while it was being submitted, or its answer was faster than the submit's.
            if answer.word in ("queued", "assigned"):
                self._jobs.cancel(utterance, "ended")
            return
        self._by_job[utterance.job] = utterance.index
        self._seen(utterance, answer.body)

    def _is_open(self, utterance: Utterance) -> bool:
        """False once it has ended, also when another go at its index is open by now."""
        return self._table.get(utterance.index) is utterance

    def _unheard(self, utterance: Utterance) -> None:
        """Redis does not answer about it: said once, at once, and never as an error (P7)."""
        if utterance.unheard_since is None and self._is_open(utterance):
            utterance.unheard_since = self._core.clock.monotonic()
            utterance.unable_since = None
            self._notice(utterance, Progress.DELAYED, error_code=ErrorCode.SCHEDULER_DEPENDENCY_DOWN)

    # --- what became of it ----------------------------------------------------------------------------------------

    def _seen(self, utterance: Utterance, view: JobView) -> None:
        """Take in what the cell says about the job."""
        if view.state in ("FINISHED", "RELEASED"):
            if view.outcome in ("ok", "failed") and view.lease:
                self._fetch(utterance, view)
            else:
                self.ended(utterance.job, view.outcome, view.reason)
            return
        self.tried_again(utterance.job, view.attempt)
        if view.position == 0:
            utterance.position, utterance.unable_since = 0, None
            return
        if view.position != utterance.position:
            utterance.position = view.position
            self._notice(utterance, Progress.QUEUED, queue_position=view.position)
        if view.able:
            utterance.unable_since = None
        elif utterance.unable_since is None:
            utterance.unable_since = self._core.clock.monotonic()

    def _fetch(self, utterance: Utterance, view: JobView) -> None:
        self._tasks.spawn(self._fetch_result(utterance, view))

    async def _fetch_result(self, utterance: Utterance, view: JobView) -> None:
        try:
            raw = await self._jobs.result(utterance.job, view.lease)
        except DependencyDown:
            return  # the watch comes again
        if raw is not None:
            self.answered(utterance.job, view.lease, _read_result(raw))
        elif utterance.finished_at is None:
            # Its answer may be on its way here, straight from the node's link or through the inbox.
            utterance.finished_at = self._core.clock.monotonic()
        elif self._core.clock.monotonic() - utterance.finished_at > _ANSWER_SECONDS:
            self.ended(utterance.job, "failed", ErrorCode.INTERNAL_ERROR)

    def body_of(self, index: int, job: str) -> str | None:
        """The assignment's members for this job, while the utterance is open."""
        utterance = self._table.get(index)
        return utterance.body if utterance is not None and utterance.job == job else None

    def tried_again(self, job: str, attempt: int) -> None:
        """The job has got this attempt; from the second on the session is told."""
        utterance = self._table.get(self._by_job.get(job, -1))
        if utterance is not None and attempt > utterance.attempt:
            utterance.attempt = attempt
            if attempt > 1:
                self._notice(utterance, Progress.RETRYING)

    def heard(self, job: str, text: str, is_final: bool) -> None:
        """Recognised text so far."""
        utterance = self._table.get(self._by_job.get(job, -1))
        if utterance is not None:
            self.outbox.put(
                encode(
                    AsrPartial(
                        session_id=self.session,
                        utterance_index=utterance.index,
                        job_id=job,
                        text=text,
                        is_final=is_final,
                        trace_id=self.trace_id,
                    )
                )
            )

    def answered(self, job: str, lease: str, result: JobResult) -> None:
        """The node's accepted answer: the end of the utterance, unless it has ended before."""
        utterance = self._table.get(self._by_job.get(job, -1))
        if utterance is None:
            metrics.late_ends.inc()
            return
        now_ms = self._core.clock.wall_ms()
        if not result.success:
            fault = result.error
            code = fault.code if fault else ErrorCode.PROCESSING_ERROR
            text = fault.message if fault else "the node reported a failure without a reason"
            self._end(utterance, self._error(code, text, index=utterance.index), "failed", lease)
            return
        group: tuple[str | None, int | None] = (None, None)
        if not is_empty_result(result):
            text = (result.text_asr or "") + (result.text_translated or "")
            group = self._groups.join(text, now=self._core.clock.monotonic(), now_ms=now_ms)
        frame = result_frame(
            result,
            session_id=self.session,
            utterance_index=utterance.index,
            job_id=job,
            trace_id=self.trace_id,
            sent_at_ms=now_ms,
            received_at_ms=now_ms,
            web_to_scheduler_ms=utterance.sent_by_client_ms,
            group_id=group[0],
            part_index=group[1],
        )
        self._end(utterance, frame, "ok" if isinstance(frame, TranslationResult) else "empty", lease)

    def ended(self, job: str, outcome: str, reason: str) -> None:
        """The job ended without an answer."""
        utterance = self._table.get(self._by_job.get(job, -1))
        if utterance is None:
            metrics.late_ends.inc()
            return
        code, text = _explain(outcome, reason)
        self._end(utterance, self._error(code, text, index=utterance.index), outcome)

    def overdue(self, now: float) -> None:
        """End what is past its deadline: the last word (P1)."""
        for utterance in self._table.overdue(now):
            self._jobs.cancel(utterance, "deadline")
            if utterance.unheard_since is not None or not utterance.submitted:
                text = "the scheduler's store did not answer until the deadline; please say it again"
                frame: Frame = self._error(ErrorCode.SCHEDULER_DEPENDENCY_DOWN, text, index=utterance.index)
            else:
                # A node that hears the same text twice answers nothing (PROTOCOL 9.2 no. 6): this must end quietly.
                frame = MissingResult(
                    session_id=self.session,
                    utterance_index=utterance.index,
                    reason="result_timeout",
                    created_at_ms=self._core.clock.wall_ms(),
                    trace_id=self.trace_id,
                )
            self._end(utterance, frame, "timed_out")
        patience = self._core.config.scheduler.job_timeout.pending_timeout_seconds
        for utterance in self._table.open():
            if utterance.unheard_since is not None:
                continue  # what nobody could do when Redis last spoke, somebody may be able to do by now (P7)
            if utterance.unable_since is not None and now - utterance.unable_since > patience:
                self._jobs.cancel(utterance, "no_node")
                self.ended(utterance.job, "refused", "no_node")

    def _end(self, utterance: Utterance, frame: Frame, outcome: str, lease: str = "") -> None:
        turn = self._table.end(utterance.index, frame, failed=outcome not in ("ok", "empty"))
        if turn is None:
            metrics.late_ends.inc()
            return
        self._by_job.pop(utterance.job, None)
        seconds = self._core.clock.monotonic() - utterance.accepted_at
        metrics.utterances_ended.labels(outcome).inc()
        metrics.utterance_seconds.observe(seconds)
        for ended in turn:
            self.outbox.put(encode(ended))
        self._jobs.release(self.session, utterance, lease)
        if not self._table:
            self.idle.set()

    # --- frames out -----------------------------------------------------------------------------------------------

    def _error(self, code: str, message: str, *, index: int | None = None) -> ErrorFrame:
        details: dict[str, Any] | None = None if index is None else {"utterance_index": index}
        return ErrorFrame(code=code, message=message, details=details, trace_id=self.trace_id)

    def _notice(
        self, utterance: Utterance, event: Progress, *, error_code: str | None = None, queue_position: int | None = None
    ) -> None:
        self.outbox.put(
            encode(
                UiEvent(
                    trace_id=self.trace_id,
                    session_id=self.session,
                    job_id=utterance.job,
                    utterance_index=utterance.index,
                    event=event,
                    elapsed_ms=round((self._core.clock.monotonic() - utterance.accepted_at) * 1000),
                    status="error" if error_code else "ok",
                    error_code=error_code,
                    hint=hint(error_code) if error_code else None,
                    queue_position=queue_position,
                )
            )
        )

    # --- the watch ------------------------------------------------------------------------------------------------

    def unsettled(self, now: float) -> list[Utterance]:
        """Utterances that a cell has taken in and that are open longer than a second."""
        return [each for each in self._table.open() if each.submitted and now - each.accepted_at > _WATCH_SECONDS]

    def told(self, utterance: Utterance, view: JobView | None) -> None:
        """What the watch found; None = the cell has lost the job, so it is submitted again."""
        if not self._is_open(utterance) or self._gone:
            return
        utterance.unheard_since = None
        if view is None:
            metrics.resubmitted.inc()
            self._submit(utterance)
        else:
            self._seen(utterance, view)

    def untold(self, utterance: Utterance) -> None:
        """The watch got no answer about it."""
        if not self._gone:
            self._unheard(utterance)

    def keep_record(self) -> None:
        """Write the session record, without making the session wait for it."""
        self._tasks.spawn(self._write_record())

    async def _write_record(self) -> None:
        try:
            await self._core.client.run(self.record())
        except DependencyDown:
            log.info("session_record_not_written", session=self.session)

    def record(self) -> Call[Any]:
        """Write the session record, or keep it alive; the owner keeper does so beside the owner record."""
        return self._core.sessions.open(
            self.session, epoch=self.epoch, instance=self._core.instance, src=self._src, tgt=self._tgt
        )

    # --- the end --------------------------------------------------------------------------------------------------

    def fenced(self) -> None:
        """Another connection of this session has taken over."""
        if not self._gone:
            metrics.fenced.labels("session").inc()
            self._gone = True
            self.outbox.close(TAKEN_OVER, "another connection of this session has taken over")

    def goodbye(self) -> None:
        """Acknowledge a polite end."""
        self.outbox.put(encode(SessionCloseAck(session_id=self.session)))

    async def closed(self) -> None:
        """The session has left: its jobs are cancelled, its ownership is given up."""
        self._gone = True
        if self._cut_timer is not None:
            self._cut_timer.cancel()
        for utterance in self._table.open():
            self._jobs.cancel(utterance, "session_closed")
            self._table.end(utterance.index, self._error(ErrorCode.SESSION_CLOSED, "the session has ended"))
            metrics.utterances_ended.labels("abandoned").inc()
            self._jobs.release(self.session, utterance)
        self._by_job.clear()
        self.idle.set()
        try:
            await self._core.client.flush(
                self._core.owners.release(self.owner_key, epoch=self.epoch),
                self._core.sessions.close(self.session, epoch=self.epoch),
            )
        except DependencyDown:
            log.info("owner_left_to_expire", session=self.session)


class Sessions:
    """All session links of this instance."""

    def __init__(self, core: Core, jobs: Jobs, exchange: "Exchange[SessionLink]") -> None:
        self._core = core
        self._jobs = jobs
        self._exchange = exchange
        self._tasks = Tasks("sessions")
        core.on_data_loss.append(self._lost)

    def _lost(self) -> None:
        for link in list(self._exchange):
            link.lost()

    async def begin(self, init: SessionInit, outbox: Outbox) -> SessionLink:
        """Open a session and acknowledge it."""
        core = self._core
        session = f"s-{secrets.token_hex(16)}"
        try:
            claimed = await core.client.run(core.owners.claim(core.keys.session_owner(session), instance=core.instance))
            epoch = claimed.epoch
        except DependencyDown:
            # Epochs are times; the owner keeper writes this one down.
            epoch = core.clock.wall_ms() * 1000
        link = SessionLink(core, self._jobs, outbox, init, session=session, epoch=epoch)
        link.keep_record()
        self._exchange.plug(session, link)
        outbox.put(encode(SessionInitAck(session_id=session, trace_id=link.trace_id)))
        return link

    def leave(self, link: SessionLink) -> None:
        """The link's socket is closed, or acts for another session now."""
        self._exchange.unplug(link.session, link)
        self._tasks.spawn(link.closed())

    async def quiet(self) -> None:
        """Waits until every link that left has given back what was its own."""
        await self._tasks.quiet()


def _tenant(wish: str | None) -> str:
    """A tenant name that can be part of a line's name; anything odd becomes a hash of itself."""
    if not wish or not wish.strip():
        return "default"
    name = wish.strip()
    if all(character.isascii() and (character.isalnum() or character in "._-") for character in name):
        return name
    return "t-" + hashlib.blake2b(name.encode(), digest_size=8).hexdigest()


def _read_result(raw: bytes) -> JobResult:
    frame = decode_node(raw)
    if not isinstance(frame, JobResult):
        raise InvalidFrame("a stored result is not a job_result")
    return frame


def _explain(outcome: str, reason: str) -> tuple[str, str]:
    """Code and words for a job that ended without an answer."""
    if outcome == "refused" and reason == "line_full":
        return ErrorCode.NODE_OVERLOADED, "all nodes are busy and the waiting line is full; try again in a moment"
    if outcome == "refused" and reason.startswith("lacks "):
        return (
            ErrorCode.NO_AVAILABLE_NODE,
            f"no connected node can do this: none offers {reason.removeprefix('lacks ')}",
        )
    if outcome == "refused" and reason == "no_ready_node":
        return ErrorCode.NO_AVAILABLE_NODE, "nodes are connected, but none is ready for work"
    if outcome == "refused":
        return ErrorCode.NO_AVAILABLE_NODE, "no node is connected that could do this"
    if outcome == "poison":
        return ErrorCode.NODE_UNAVAILABLE, "two nodes lost their connection over this utterance; it is not tried again"
    if outcome == "timed_out":
        return ErrorCode.JOB_TIMEOUT, "no node finished this utterance in time"
    if outcome == "cancelled":
        return ErrorCode.SESSION_CLOSED, "the job was cancelled"
    code = reason if reason in ErrorCode.__members__ else ErrorCode.NODE_UNAVAILABLE
    return code, "the nodes that tried this utterance could not finish it"
