"""The reference peers, which are the example for writing others, against real instances."""

import asyncio
from base64 import b64decode
from contextlib import suppress

from ops.peers.node import Node, echo
from ops.peers.session import Session
from tests.flows.instances import InstanceProcess
from tests.flows.peers import SECONDS, captured
from tests.flows.stage import Stage


async def test_what_the_reference_session_says_comes_back_from_the_reference_node(stage: Stage, there: InstanceProcess):
    speech = b64decode(captured("audio_chunk_full_opus_plan_a")["payload"]) * 3
    node = Node(there.url("node"), echo, languages=[(stage.src, stage.tgt)])
    serving = asyncio.create_task(node.run())
    try:
        async with asyncio.timeout(SECONDS), Session(stage.a.url("session"), stage.src, stage.tgt) as session:
            await node.registered.wait()
            await stage.until_able(str(node.node_id))
            heard = [await session.result(index) for index in await session.say(speech)]
            heard.append(await session.result(await session.utter(speech)))
    finally:
        serving.cancel()
        with suppress(asyncio.CancelledError):
            await serving
    assert [frame["utterance_index"] for frame in heard] == [0, 1]
    assert [b64decode(frame["tts_audio"]) for frame in heard] == [speech, speech]
