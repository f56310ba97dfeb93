"""The same request, however often and from wherever it comes, is one job and one assignment (P3).

The submitters run inside the test, so that both are really at it at once; instances, Redis and the node are real.
"""

import asyncio
import secrets
from collections import Counter
from collections.abc import AsyncIterator

import msgspec
import pytest

from dispatch import languages
from dispatch.clock import SystemClock
from dispatch.conf import Config
from dispatch.connections.session import Utterance
from dispatch.errors import DependencyDown
from dispatch.keys import Keys
from dispatch.messages.node import AssignBody, Pipeline, assign_body
from dispatch.placement import Directory
from dispatch.service.core import Core
from dispatch.service.courier import Courier, NodeEnd, SessionEnd
from dispatch.service.jobs import Jobs
from dispatch.store.cells import Answer, JobView
from dispatch.store.client import command
from dispatch.store.inbox import Inbox
from dispatch.switchboard import Exchange
from tests.flows.instances import Backend
from tests.flows.stage import Stage, client_of

REQUESTS = 200


class Submitter:
    """The part of an instance that hands jobs to cells; it has no sockets."""

    def __init__(self, name: str, backend: Backend) -> None:
        settings = {"phase2": {"redis": {"key_prefix": backend.prefix}}}
        config = msgspec.convert({"scheduler": settings}, Config)
        self.client = client_of(backend)
        core = Core(
            instance=name, boot=name, config=config, client=self.client, clock=SystemClock(), fresh=lambda: True
        )
        nodes: Exchange[NodeEnd] = Exchange()
        sessions: Exchange[SessionEnd] = Exchange()
        self.courier = Courier(core, nodes, sessions, Inbox(core.keys, "scheduler"))
        self.jobs = Jobs(core, self.courier, Directory())

    async def submit(self, session: str, utterance: Utterance) -> Answer[JobView]:
        """As a session does: when Redis did not answer, nobody knows, and it is submitted again."""
        while True:
            try:
                return await self.jobs.submit(session, utterance)
            except DependencyDown:
                await asyncio.sleep(0)  # lets others go on; the next attempt waits for Redis by itself

    async def aclose(self) -> None:
        await self.courier.quiet()
        await self.client.aclose()


def request(stage: Stage, session: str) -> Utterance:
    """The first utterance of this session, as an instance would make it, with a job id of its own proposal."""
    body = AssignBody(
        session_id=session,
        utterance_index=0,
        src_lang=stage.src,
        tgt_lang=stage.tgt,
        pipeline=Pipeline(),
        audio="AAAA",
        audio_format="opus",
        sample_rate=16_000,
        trace_id="trace",
        is_manual_cut=True,
    )
    return Utterance(
        index=0,
        target=stage.tgt,
        kind=languages.kind_tokens(stage.src, stage.tgt, (), ("asr", "nmt", "tts")) + "|default",
        key="0",
        fingerprint=b"",
        body=assign_body(body),
        trace_id="trace",
        accepted_at=0.0,
        deadline_at=60.0,
        job=f"job-{secrets.token_hex(16)}",
        cell="",
    )


@pytest.fixture
async def submitters(backend: Backend) -> AsyncIterator[tuple[Submitter, Submitter]]:
    pair = Submitter("x", backend), Submitter("y", backend)
    for submitter in pair:
        await submitter.client.servers()  # as an instance that starts
    yield pair
    for submitter in pair:
        await submitter.aclose()


@pytest.mark.parametrize("where", ["on one instance", "on two at once"])
async def test_a_request_submitted_twice_is_one_job_and_one_assignment(
    stage: Stage, submitters: tuple[Submitter, Submitter], backend: Backend, where: str
):
    first, second = submitters if where == "on two at once" else (submitters[0], submitters[0])
    node = await stage.node(stage.b, limit=REQUESTS + 1)
    # One session each: a node refuses an index below one that it has had (PROTOCOL 9.2 no. 7).
    sessions = [f"s-{secrets.token_hex(8)}" for _ in range(REQUESTS)]

    proposed, bound = set(), []
    for session in sessions:
        ours, theirs = request(stage, session), request(stage, session)
        proposed |= {ours.job, theirs.job}
        answers = await asyncio.gather(first.submit(session, ours), second.submit(session, theirs))
        assert ours.job == theirs.job
        assert [answer.word for answer in answers] == ["assigned", "assigned"]
        assert answers[0].body.lease == answers[1].body.lease
        bound.append(ours.job)
    assert len(set(bound)) == REQUESTS

    # The sentinel leaves last, so everything else has arrived when it does.
    await first.submit("s-sentinel", request(stage, "s-sentinel"))
    await node.assignment(session_id="s-sentinel")
    assignments = node.of("job_assign")
    assert Counter(job["job_id"].rpartition("-")[0] for job in assignments) == Counter(bound)
    assert {job["attempt_id"] for job in assignments} == {1}

    # Only the speech of the jobs that exist is kept.
    keys = Keys(backend.prefix)
    kept = await stage.redis.flush(*(command("EXISTS", keys.payload(job)) for job in sorted(proposed)))
    assert {job for job, there in zip(sorted(proposed), kept, strict=True) if there} == set(bound)

    # Once more while it runs, and once more when it is over.
    again = request(stage, sessions[0])
    assert (await second.submit(sessions[0], again)).word == "assigned"
    await node.answer(next(job for job in assignments if job["session_id"] == sessions[0]))
    await stage.until_finished(bound[0])
    for submitter in submitters:
        again = request(stage, sessions[0])
        answer = await submitter.submit(sessions[0], again)
        assert (again.job, answer.word, answer.body.outcome) == (bound[0], "finished", "ok")
    await first.submit("s-sentinel-2", request(stage, "s-sentinel-2"))
    await node.assignment(session_id="s-sentinel-2")
    assert len(node.of("job_assign")) == REQUESTS
