"""Jobs from the session's side: every step may be repeated, from anywhere, with the same effect (P3, P7)."""

import asyncio
import secrets

import pytest

from dispatch import metrics
from dispatch.connections.session import Utterance
from dispatch.errors import DependencyDown
from dispatch.placement import DEFAULT_CELL
from dispatch.store.client import command
from tests.dispatch.service.stand import Stand, until

KIND = "aud:public,pair:en>es,svc:asr,svc:nmt,svc:tts|default"


def utterance(index: int = 0, *, key: str = "k") -> Utterance:
    return Utterance(
        index=index,
        target="es",
        kind=KIND,
        key=key,
        fingerprint=b"f",
        body='"session_id":"s","utterance_index":0,"trace_id":"t"}',
        trace_id="t",
        accepted_at=0.0,
        deadline_at=60.0,
        job=f"job-{secrets.token_hex(8)}",
        cell="",
    )


async def stored(stand: Stand, job: str) -> bytes | None:
    payload: bytes | None = await stand.client.run(stand.core.payloads.get_payload(job))
    return payload


async def test_the_same_request_makes_one_job_from_any_instance_at_once(build):
    stands = [await build("a"), await build("b")]
    tries = [utterance() for _ in range(20)]
    await asyncio.gather(*(stands[n % 2].instance.jobs.submit("s", each) for n, each in enumerate(tries)))
    (job,) = {each.job for each in tries}
    assert list((await stands[0].audit()).jobs) == [job]
    assert [key for key in await stands[0].keys() if "payload" in key] == [f":v1:payload:{{job:{job}}}"]


async def test_a_request_that_is_repeated_after_a_lost_answer_finds_its_job_as_it_stands(stand):
    node = await stand.node()
    first = utterance()
    await stand.instance.jobs.submit("s", first)
    await node.assigned()
    again = await stand.instance.jobs.submit("s", first)
    assert (again.word, again.body.state) == ("assigned", "DISPATCHED")
    assert len((await stand.audit()).held) == 1
    assert len(node.assignments) == 1


async def test_other_sessions_and_other_keys_are_other_requests(stand):
    for session, key in (("s", "k"), ("s", "l"), ("t", "k")):
        await stand.instance.jobs.submit(session, utterance(key=key))
    assert len((await stand.audit()).jobs) == 3


async def test_no_lease_is_taken_while_our_presence_is_in_doubt(stand, clock):
    clock.advance(2.1)
    with pytest.raises(DependencyDown):
        await stand.instance.jobs.submit("s", utterance())
    assert (await stand.picture()).jobs == {}


async def test_an_unknown_outcome_is_not_a_second_job(hasty, single_redis):
    one = utterance()
    single_redis.pause()
    with pytest.raises(DependencyDown):
        await hasty.instance.jobs.submit("s", one)
    single_redis.resume()  # what was sent may well be done by now

    async def taken() -> bool:
        try:
            await hasty.instance.jobs.submit("s", one)
        except DependencyDown:
            return False
        return True

    await until(taken)
    assert list((await hasty.audit()).jobs) == [one.job]


async def test_a_released_job_keeps_no_speech_and_no_answer_and_still_answers_repetitions(stand):
    node = await stand.node()
    one = utterance()
    await stand.instance.jobs.submit("s", one)
    node.answer(await node.assigned())
    await stand.until(lambda seen: [job["state"] for job in seen.jobs.values()] == ["FINISHED"])
    assert await stored(stand, one.job)
    stand.instance.jobs.release("s", one)
    await stand.quiet()
    assert await stored(stand, one.job) is None
    assert [job["state"] for job in (await stand.audit()).jobs.values()] == ["RELEASED"]
    assert (await stand.instance.jobs.submit("s", one)).word == "finished"


async def test_what_is_released_while_redis_is_silent_is_told_later_and_keeps_no_speech_in_memory(hasty, single_redis):
    one = utterance()
    await hasty.instance.jobs.submit("s", one)
    single_redis.pause()
    hasty.instance.jobs.release("s", one)
    assert one.body not in repr(hasty.instance.jobs._released)
    single_redis.resume()
    await hasty.quiet()
    assert await stored(hasty, one.job) is None


async def test_a_cancel_is_told_until_redis_answers(hasty, single_redis):
    one = utterance()
    await hasty.instance.jobs.submit("s", one)
    single_redis.kill()
    hasty.instance.jobs.cancel(one, "deadline")
    before = metrics.redis_ops.labels("err")._value.get()
    await until(lambda: metrics.redis_ops.labels("err")._value.get() > before)
    single_redis.start()
    await hasty.quiet()
    assert await hasty.client.run(command("PING"))


async def test_states_of_a_cell_that_is_gone_are_all_unknown(stand):
    one = utterance()
    await stand.instance.jobs.submit("s", one)
    assert [view.state for view in await stand.instance.jobs.states(DEFAULT_CELL, [one.job])] == ["CREATED"]
    await stand.empty()
    assert await stand.instance.jobs.states(DEFAULT_CELL, [one.job, "x"]) == [None, None]


async def test_a_job_that_is_not_there_is_told_beside_one_that_is(stand):
    one = utterance()
    await stand.instance.jobs.submit("s", one)
    known, unknown = await stand.instance.jobs.states(DEFAULT_CELL, [one.job, "job-x"])
    assert known is not None
    assert unknown is None
