"""One session, one node: what was said comes back, whichever instances hold the two sockets."""

from base64 import b64decode, b64encode

import pytest

from tests.flows.instances import InstanceProcess
from tests.flows.peers import RawNode, RawSession, captured
from tests.flows.stage import Stage

OVER_AN_ENVELOPE = 32 * 1024  #: does not ride inside an envelope
ACK_IDS = ("job_id", "attempt_id", "session_id", "trace_id")
OVER_A_MEBIBYTE = 1_300_000  #: more than daphne carries unless it is told to


async def test_an_utterance_comes_back_as_its_translation(stage: Stage, there: InstanceProcess):
    node, session = await stage.node(there), await stage.session(stage.a)
    await session.say(0, trace_id="trace of this one")
    job = await node.assignment()
    said = captured("utterance_full")
    assert (job["audio"], job["audio_format"], job["sample_rate"]) == (said["audio"], "opus", 16_000)
    assert (job["src_lang"], job["tgt_lang"], job["attempt_id"]) == (stage.src, stage.tgt, 1)
    assert (job["is_manual_cut"], job["trace_id"]) == (True, "trace of this one")
    await node.answer(job, "job_result_success_real_pipeline")
    result = await session.result(0)
    answered = captured("job_result_success_real_pipeline")
    for member in ("text_asr", "text_translated", "tts_audio", "tts_format"):
        assert result[member] == answered[member]
    assert (result["session_id"], result["trace_id"]) == (session.session_id, session.trace_id)


async def test_audio_chunks_are_cut_into_one_utterance(stage: Stage, there: InstanceProcess):
    node, session = await stage.node(there), await stage.session(stage.a)
    for seq in range(4):
        await session.chunk(seq)
    await session.chunk(4, "audio_chunk_final_empty")
    job = await node.assignment()
    piece = b64decode(captured("audio_chunk_full_opus_plan_a")["payload"])
    assert len(job["audio"]) > OVER_AN_ENVELOPE
    assert b64decode(job["audio"]) == piece * 4
    assert (job["is_manual_cut"], job["padding_ms"], job["utterance_index"]) == (True, 280, 0)
    await node.answer(job)
    assert (await session.result(0))["text_asr"] == captured("job_result_success_stub_inference")["text_asr"]
    assert not [*node.of("job_assign"), *session.of("error")]


async def test_chunks_and_whole_utterances_share_one_count(stage: Stage):
    node, session = await stage.node(stage.a), await stage.session(stage.a)
    await session.say(0)
    await session.chunk(0, is_final=True)
    for index in (0, 1):
        await node.answer(await node.assignment(utterance_index=index))
        await session.result(index)


async def test_two_way_speech_of_unknown_source_finds_a_node(stage: Stage, there: InstanceProcess):
    node = await stage.open(RawNode, there)
    await node.register(captured("node_register"))
    await node.beat()
    await stage.listed(node)
    session = await stage.open(RawSession, stage.a)
    await session.begin(captured("session_init_two_way"))
    await session.chunk(0, is_final=True)
    job = await node.assignment()
    assert (job["src_lang"], job["tgt_lang"], job["mode"]) == ("auto", "en", "two_way_auto")
    assert (job["lang_a"], job["lang_b"], job["auto_langs"]) == ("zh", "en", ["zh", "en"])
    await node.answer(job)
    await session.result(0)


async def test_a_node_that_acknowledges_is_served_like_one_that_does_not(stage: Stage, there: InstanceProcess):
    node, session = await stage.node(there), await stage.session(stage.a)
    await session.say(0)
    job = await node.assignment()
    ids = {"node_id": node.node_id, **{name: job[name] for name in ACK_IDS}}
    await node.send({"type": "job_ack", **ids})
    await node.send({"type": "job_started", **ids})
    await node.answer(job)
    await session.result(0)
    assert node.of("error") == []


async def test_a_node_that_acknowledged_once_is_expected_to_do_so_again(stage: Stage):
    node, session = await stage.node(stage.a), await stage.session(stage.a)
    await session.say(0)
    job = await node.assignment()
    await node.send({"type": "job_ack", **{name: job[name] for name in ACK_IDS}, "node_id": node.node_id})
    await node.answer(job)
    await session.result(0)
    await session.say(1)
    silent = await node.assignment(utterance_index=1)
    other = await stage.node(stage.b)
    assert (await node.expect("job_cancel"))["job_id"] == silent["job_id"]
    await other.answer(await other.assignment(utterance_index=1, attempt_id=2))
    await session.result(1)


async def test_partial_texts_reach_the_session_before_the_result(stage: Stage, there: InstanceProcess):
    node, session = await stage.node(there), await stage.session(stage.a)
    await session.say(0)
    job = await node.assignment()
    await node.send(captured("asr_partial_from_node", **node.about(job)))
    partial = await session.expect("asr_partial")
    assert (partial["text"], partial["is_final"], partial["utterance_index"]) == ("good morning", False, 0)
    await node.send(captured("asr_partial_from_node", **node.about(job), text="good morning all", is_final=True))
    assert (await session.expect("asr_partial"))["text"] == "good morning all"
    await node.answer(job)
    await session.result(0)


@pytest.mark.parametrize("size", [OVER_AN_ENVELOPE, OVER_A_MEBIBYTE])
async def test_large_speech_goes_there_and_back(stage: Stage, there: InstanceProcess, size: int):
    node, session = await stage.node(there), await stage.session(stage.a)
    speech = b64encode(bytes(range(256)) * (size // 256)).decode()
    await session.say(0, audio=speech, audio_format="pcm16")
    job = await node.assignment()
    assert job["audio"] == speech
    await node.answer(job, tts_audio=speech)
    assert (await session.result(0))["tts_audio"] == speech


async def test_results_come_in_the_order_of_the_speech(stage: Stage, there: InstanceProcess):
    one, other = await stage.node(there, limit=2), await stage.node(stage.a, limit=2)
    session = await stage.session(stage.a)
    for index in range(4):
        await session.say(index)
    held = [(node, await node.assignment()) for node in (one, one, other, other)]
    for node, job in sorted(held, key=lambda pair: -pair[1]["utterance_index"]):
        await node.answer(job, text_asr=f"said as number {job['utterance_index']}")
    indices = []
    for _ in range(4):
        result = await session.expect("translation_result")
        assert result["text_asr"] == f"said as number {result['utterance_index']}"
        indices.append(result["utterance_index"])
    assert indices == [0, 1, 2, 3]


async def test_the_same_utterance_twice_is_one_job(stage: Stage, there: InstanceProcess):
    node, session = await stage.node(there), await stage.session(stage.a)
    await session.say(0)
    await session.say(0)
    job = await node.assignment()
    await session.say(0)
    await node.answer(job)
    await session.result(0)
    await session.say(0)  # also when it is over
    await session.say(1)
    await node.answer(await node.assignment(utterance_index=1))
    await session.result(1)
    assert not [*node.of("job_assign"), *session.of("translation_result"), *session.of("error")]


@pytest.mark.parametrize("name", ["job_result_empty_audio_buffered", "job_result_filtered_short_text"])
async def test_an_empty_result_is_told_as_silence(stage: Stage, there: InstanceProcess, name: str):
    node, session = await stage.node(there), await stage.session(stage.a)
    await session.say(0)
    await node.answer(await node.assignment(), name)
    missing = await session.expect("missing_result")
    assert (missing["utterance_index"], missing["reason"]) == (0, "silence_detected")


async def test_a_node_that_only_knows_the_job_id_already_has_not_answered(stage: Stage):
    first, session = await stage.node(stage.a), await stage.session(stage.a)
    await session.say(0)
    job = await first.assignment()
    second = await stage.node(stage.b)
    await first.answer(job, "job_result_filtered_duplicate_job_id")
    again = await second.assignment()
    await second.answer(again)
    await session.result(0)
    assert session.of("missing_result") == []


@pytest.mark.parametrize("name", ["job_result_model_not_available", "job_result_processing_error"])
async def test_a_failure_sends_the_job_to_another_node(stage: Stage, there: InstanceProcess, name: str):
    first, session = await stage.node(stage.a), await stage.session(stage.a)
    await session.say(0)
    job = await first.assignment()
    second = await stage.node(there)
    await first.answer(job, name)
    again = await second.assignment()
    assert (again["attempt_id"], again["audio"]) == (2, job["audio"])
    assert again["job_id"] != job["job_id"]  # real nodes ignore an id that they have seen
    await second.answer(again)
    await session.result(0)
    assert session.of("error") == []


@pytest.mark.parametrize("name", ["job_result_model_not_available", "job_result_processing_error"])
async def test_a_failure_without_another_node_is_told_with_its_code(stage: Stage, there: InstanceProcess, name: str):
    node, session = await stage.node(there), await stage.session(stage.a)
    await session.say(3)
    await node.answer(await node.assignment(), name)
    error = await session.expect("error")
    assert error["code"] == captured(name)["error"]["code"]
    assert error["details"]["utterance_index"] == 3
    assert error["trace_id"] == session.trace_id


async def test_a_session_is_answered_while_it_listens(stage: Stage):
    node, session = await stage.node(stage.a), await stage.session(stage.a)
    assert (await session.heartbeat())["session_id"] == session.session_id
    await session.say(0)
    await node.answer(await node.assignment())
    group = (await session.result(0))["group_id"]
    await session.send(captured("tts_play_ended", session_id=session.session_id, group_id=group))
    await session.say(1)
    await node.answer(await node.assignment(utterance_index=1))
    result = await session.result(1)
    assert (result["group_id"], result["part_index"]) == (group, 1)
    assert session.of("error") == []


async def test_the_acknowledgement_says_what_the_real_client_reads(stage: Stage):
    session = await stage.open(RawSession, stage.a)
    ack = await session.begin(captured("session_init_one_way"))
    assert ack["trace_id"] == captured("session_init_one_way")["trace_id"]
    assert (ack["use_binary_frame"], ack["negotiated_codec"], ack["negotiated_sample_rate"]) == (False, "opus", 16_000)
    assert 0 < len(ack["session_id"]) <= 255
