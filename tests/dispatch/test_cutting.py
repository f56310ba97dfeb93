"""Cutting: every rule of PROTOCOL 7.1, the real client's quirks, and no byte lost whatever comes."""

from itertools import pairwise

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatch.conf import EdgeStabilization, WebTaskSegmentation
from dispatch.cutting import Cut, Cutter, audio_duration_ms
from dispatch.messages.base import audio_bytes
from tests.dispatch.messages import captured_fields

RULES = WebTaskSegmentation()


def speech(ms: int, fill: bytes = b"s") -> bytes:
    """So many milliseconds of length-prefixed packets, 22 bytes each."""
    return (b"\x14\x00" + fill * 20) * (ms // 20)


def cutter(**changes: int) -> Cutter:
    return Cutter(msgspec.structs.replace(RULES, **changes))


def facts(cuts: list[Cut]) -> list[tuple[int, str, str, int]]:
    return [(cut.index, cut.reason, cut.flag, cut.padding_ms) for cut in cuts]


MANUAL = ("manual", "is_manual_cut", 280)
PAUSE = ("pause", "is_pause_triggered", 220)
TIMEOUT = ("timeout", "is_timeout_triggered", 220)


# --- when to cut --------------------------------------------------------------------------------------------------


def test_audio_waits_for_a_trigger():
    cut = cutter()
    cut.feed(speech(2560), is_final=False, now=0.0)
    assert cut.due(2.9) == []
    assert cut.next_deadline() == 3.0
    assert cut.buffered_bytes == len(speech(2560))


def test_a_final_chunk_cuts_after_its_hangover():
    cut = cutter()
    cut.feed(speech(1000), is_final=True, now=10.0)
    assert cut.next_deadline() == pytest.approx(10.2)
    assert cut.due(10.19) == []
    (one,) = cut.due(10.2)
    assert facts([one]) == [(0, *MANUAL)]
    assert one.audio == speech(1000)
    assert cut.next_deadline() is None
    assert cut.buffered_bytes == 0


def test_send_pressed_is_a_chunk_and_an_empty_final():
    cut = cutter()
    cut.feed(speech(1000), is_final=False, now=0.0)
    cut.feed(b"", is_final=True, now=0.001)
    (one,) = cut.due(0.201)
    assert facts([one]) == [(0, *MANUAL)]
    assert one.audio == speech(1000)


def test_silence_of_the_sender_cuts_by_timer():
    cut = cutter()
    cut.feed(speech(2560), is_final=False, now=0.0)
    assert cut.due(3.0) == []
    assert cut.next_deadline() == pytest.approx(3.15)
    assert facts(cut.due(3.15)) == [(0, *TIMEOUT)]


def test_each_chunk_winds_the_timer_up_again():
    cut = cutter()
    for now in (0.0, 2.6, 5.2):
        cut.feed(speech(2560), is_final=False, now=now)
        assert cut.due(now) == []
    assert cut.next_deadline() == pytest.approx(8.2)
    (one,) = cut.due(8.35)
    assert len(one.audio) == 3 * len(speech(2560))


def test_the_first_chunk_after_a_pause_is_cut():
    cut = cutter()
    cut.feed(b"", is_final=False, now=0.0)
    cut.feed(speech(2560), is_final=False, now=3.001)
    assert cut.next_deadline() == pytest.approx(3.151)
    assert facts(cut.due(3.151)) == [(0, *PAUSE)]


def test_a_gap_of_exactly_the_pause_is_none():
    cut = cutter()
    cut.feed(b"", is_final=False, now=0.0)
    cut.feed(speech(2560), is_final=False, now=3.0)
    assert cut.due(5.9) == []


def test_a_pause_between_utterances_counts_and_both_are_kept():
    cut = cutter()
    cut.feed(speech(2560, b"a"), is_final=False, now=0.0)
    cut.feed(speech(2560, b"b"), is_final=False, now=9.0)
    cuts = cut.due(9.15)
    assert facts(cuts) == [(0, *TIMEOUT), (1, *PAUSE)]
    assert [one.audio for one in cuts] == [speech(2560, b"a"), speech(2560, b"b")]


def test_a_final_chunk_after_a_pause_is_manual():
    cut = cutter()
    cut.feed(b"", is_final=False, now=0.0)
    cut.feed(speech(500), is_final=True, now=9.0)
    assert facts(cut.due(9.2)) == [(0, *MANUAL)]


def test_twenty_seconds_are_one_utterance():
    cut = cutter()
    for number in range(7):
        cut.feed(speech(2560), is_final=False, now=number * 2.56)
        assert cut.due(number * 2.56) == []
    cut.feed(speech(2080), is_final=False, now=17.92)  # 20 000 ms exactly
    assert facts(cut.due(18.08)) == [(0, "max_duration", "is_timeout_triggered", 220)]


def test_too_many_bytes_are_cut_at_once():
    cut = Cutter(RULES, audio_format="pcm16", sample_rate=48_000)
    cut.feed(b"x" * 512_000, is_final=False, now=0.0)
    assert cut.due(0.0) == []
    cut.feed(b"x", is_final=True, now=0.1)
    assert cut.next_deadline() == 0.1
    (one,) = cut.due(0.1)
    assert facts([one]) == [(0, "max_length", "is_timeout_triggered", 0)]
    assert len(one.audio) == 512_001


def test_a_cut_at_once_does_not_overtake_one_in_its_hangover():
    cut = cutter(max_bytes=30_000)
    cut.feed(speech(1000, b"a"), is_final=True, now=0.0)
    cut.feed(b"b" * 30_001, is_final=False, now=0.01)
    cuts = cut.due(0.01)
    assert [one.reason for one in cuts] == ["manual", "max_length"]
    assert [one.index for one in cuts] == [0, 1]


def test_the_end_of_the_session_cuts_what_is_left():
    cut = cutter()
    cut.feed(speech(1000, b"a"), is_final=True, now=0.0)
    cut.feed(speech(1000, b"b"), is_final=False, now=0.1)
    assert facts(cut.close()) == [(0, *MANUAL), (1, "close", "is_manual_cut", 220)]
    assert cut.close() == []
    assert cut.next_deadline() is None


def test_the_end_of_a_silent_session_cuts_nothing():
    cut = cutter()
    cut.feed(b"", is_final=True, now=0.0)
    assert cut.close() == []


# --- the hangover -------------------------------------------------------------------------------------------------


def test_audio_during_the_hangover_is_the_next_utterance():
    cut = cutter()
    cut.feed(speech(1000, b"a"), is_final=True, now=0.0)
    cut.feed(speech(1000, b"b"), is_final=True, now=0.1)
    first = cut.due(0.2)
    second = cut.due(0.31)
    assert [one.audio for one in first + second] == [speech(1000, b"a"), speech(1000, b"b")]
    assert facts(first + second) == [(0, *MANUAL), (1, *MANUAL)]


def test_a_shorter_hangover_does_not_overtake_a_longer_one():
    cut = cutter(max_duration_ms=3_500)
    cut.feed(speech(1000), is_final=True, now=0.0)
    cut.feed(speech(3600), is_final=False, now=0.01)  # would be due at 0.16
    assert cut.due(0.19) == []
    assert [one.reason for one in cut.due(0.2)] == ["manual", "max_duration"]


def test_late_audio_after_an_empty_final_belongs_to_that_utterance():
    cut = cutter()
    cut.feed(speech(1000, b"a"), is_final=False, now=0.0)
    cut.feed(b"", is_final=True, now=1.0)
    cut.feed(speech(500, b"b"), is_final=False, now=1.001)
    (one,) = cut.due(1.2)
    assert one.audio == speech(1000, b"a") + speech(500, b"b")
    assert facts([one]) == [(0, *MANUAL)]
    assert cut.next_deadline() is None


def test_late_audio_is_late_only_for_so_long():
    edge = EdgeStabilization(hangover_manual_ms=1000)
    cut = Cutter(WebTaskSegmentation(edge_stabilization=edge))
    cut.feed(speech(1000, b"a"), is_final=False, now=0.0)
    cut.feed(b"", is_final=True, now=1.0)
    cut.feed(speech(500, b"b"), is_final=False, now=1.25)
    cut.feed(speech(500, b"c"), is_final=False, now=1.26)
    (one,) = cut.due(2.0)
    assert one.audio == speech(1000, b"a") + speech(500, b"b")
    (two,) = cut.due(5.0)
    assert two.audio == speech(500, b"c")


def test_late_audio_can_grow_too_large_too():
    cut = cutter(max_bytes=30_000)
    cut.feed(b"", is_final=True, now=0.0)
    cut.feed(b"x" * 30_001, is_final=False, now=0.1)
    assert [one.reason for one in cut.due(0.1)] == ["max_length"]


def test_an_empty_final_without_audio_uses_no_index():
    cut = cutter()
    cut.feed(b"", is_final=True, now=0.0)
    assert cut.due(1.0) == []
    assert cut.next_index == 0
    cut.feed(speech(1000), is_final=True, now=1.0)
    assert facts(cut.due(1.2)) == [(0, *MANUAL)]


# --- short ones ---------------------------------------------------------------------------------------------------


def test_a_short_cut_leads_the_audio_that_follows():
    cut = cutter()
    cut.feed(speech(380, b"a"), is_final=True, now=0.0)
    assert cut.due(0.2) == []
    cut.feed(speech(1000, b"b"), is_final=True, now=0.4)
    (one,) = cut.due(0.61)
    assert one.audio == speech(380, b"a") + speech(1000, b"b")
    assert one.index == 0


def test_a_short_cut_leads_one_that_is_already_pending():
    cut = cutter()
    cut.feed(speech(100, b"a"), is_final=True, now=0.0)
    cut.feed(speech(1000, b"b"), is_final=True, now=0.1)
    (one,) = cut.due(0.31)
    assert one.audio == speech(100, b"a") + speech(1000, b"b")


def test_a_short_cut_that_nothing_follows_goes_alone_with_the_timer():
    cut = cutter()
    cut.feed(speech(380), is_final=True, now=0.0)
    assert cut.due(0.49) == []
    assert cut.next_deadline() == pytest.approx(0.5)
    (one,) = cut.due(0.65)
    assert facts([one]) == [(0, *TIMEOUT)]
    assert one.audio == speech(380)


def test_pressing_send_again_and_again_does_not_hold_a_short_cut_back():
    cut = cutter()
    cut.feed(speech(380), is_final=True, now=0.0)
    cuts = []
    for number in range(1, 40):
        cut.feed(b"", is_final=True, now=number / 10)
        cuts += cut.due(number / 10)
    assert [one.audio for one in cuts] == [speech(380)]


def test_four_hundred_milliseconds_stand_alone():
    cut = cutter()
    cut.feed(speech(400), is_final=True, now=0.0)
    assert facts(cut.due(0.2)) == [(0, *MANUAL)]


def test_short_cuts_are_not_lost_at_the_end():
    cut = cutter()
    cut.feed(speech(100, b"a"), is_final=True, now=0.0)
    cut.feed(speech(100, b"b"), is_final=False, now=0.1)
    (one,) = cut.close()
    assert one.audio == speech(100, b"a") + speech(100, b"b")


# --- the real client ----------------------------------------------------------------------------------------------


def test_the_silence_detectors_sequence_is_three_utterances_none_of_them_tiny():
    """PROTOCOL 5.2: timer cut, empty final 1 ms ahead of the trailing speech, then pairs of scraps and empty finals."""
    cut = Cutter(RULES)
    fed = []

    def hear(audio: bytes, now: float, *, is_final: bool = False) -> list[Cut]:
        fed.append(audio)
        cut.feed(audio, is_final=is_final, now=now)
        return cut.due(now)

    assert hear(speech(2560, b"0"), 0.0) == []
    first = cut.due(3.15)
    assert facts(first) == [(0, *TIMEOUT)]

    assert hear(b"", 3.25, is_final=True) == []
    assert hear(speech(1280, b"1"), 3.251) == []
    second = cut.due(3.45)  # the trailing speech need not wait for the next final
    assert facts(second) == [(1, *MANUAL)]
    assert hear(b"", 4.15, is_final=True) == []

    for number, fill in enumerate((b"2", b"3", b"4")):
        assert hear(speech(256, fill), 4.16 + number / 100) == []
        assert hear(b"", 4.161 + number / 100, is_final=True) == []
    third = cut.due(4.5)
    assert facts(third) == [(2, *MANUAL)]
    assert b"".join(one.audio for one in first + second + third) == b"".join(fed)
    assert cut.next_deadline() is None


def test_a_talking_pause_between_real_chunks_cuts_nothing():
    cut = cutter()
    for now in (0.0, 2.56, 5.12):
        cut.feed(speech(2560), is_final=False, now=now)
        assert cut.due(now) == []


def test_an_hour_of_silence_ends_nothing():
    cut = cutter()
    cut.feed(speech(1000, b"a"), is_final=True, now=0.0)
    assert len(cut.due(0.2)) == 1
    assert cut.due(3600.0) == []
    cut.feed(speech(1000, b"b"), is_final=True, now=3600.0)
    assert facts(cut.due(3600.2)) == [(1, *MANUAL)]


def test_a_resumed_session_goes_on_counting():
    cut = Cutter(RULES, 7)
    cut.feed(speech(1000), is_final=True, now=0.0)
    assert [one.index for one in cut.due(1.0)] == [7]
    assert cut.next_index == 8


# --- duration -----------------------------------------------------------------------------------------------------


def test_a_real_chunk_lasts_2560_ms():
    audio = audio_bytes(captured_fields("audio_chunk_full_opus_plan_a")["payload"], field="payload")
    assert audio_duration_ms(audio, "opus", 16_000) == 2560


@pytest.mark.parametrize(
    ("data", "audio_format", "rate", "ms"),
    [
        (b"", "opus", 16_000, 0),
        (b"\x01\x00a\x02\x00bb", "opus", 16_000, 40),
        (b"\x00" * 120, "opus", 16_000, 40),  # not packets: estimated
        (b"\x09\x00" + b"a" * 118, "opus", 16_000, 40),  # a broken length: estimated
        (b"\x01\x00a\x01", "opus", 16_000, 0),
        (b"\x01\x00a" * 20_000, "opus", 16_000, 20_000),  # counted no further than anybody speaks: estimated
        (b"", "pcm16", 16_000, 0),
        (b"x" * 32_000, "pcm16", 16_000, 1000),
        (b"x" * 32_000, "pcm16", 8_000, 2000),
    ],
)
def test_duration(data, audio_format, rate, ms):
    assert audio_duration_ms(data, audio_format, rate) == ms


# --- whatever comes -----------------------------------------------------------------------------------------------

CHUNKS = st.builds(speech, st.sampled_from([0, 20, 200, 256, 400, 2560, 9000])) | st.binary(max_size=40)
STEPS = st.tuples(
    st.sampled_from([0.0, 0.001, 0.1, 0.15, 0.2, 0.25, 1.0, 2.56, 2.9, 3.0, 3.1, 70.0]), CHUNKS, st.booleans()
)
#: Small bounds, so that examples meet them.
SMALL = WebTaskSegmentation(max_bytes=12_000, max_duration_ms=10_000)


def number_bytes(steps: list[tuple[float, bytes, bool]]) -> list[tuple[float, bytes, bool]]:
    """The same chunks, as long as before, but with bytes that tell where they were."""
    position, numbered = 0, []
    for wait, audio, is_final in steps:
        numbered.append((wait, bytes((position + i) % 251 for i in range(len(audio))), is_final))
        position += len(audio)
    return numbered


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no claim about speed
@given(st.lists(STEPS, max_size=25), st.booleans(), st.sampled_from(["opus", "pcm16"]))
def test_no_byte_is_lost_or_moved_and_indices_count_on(steps, packets, audio_format):
    if not packets:
        steps = number_bytes(steps)
    cut, now, cuts = Cutter(SMALL, 3, audio_format=audio_format), 0.0, []
    fed = 0
    for wait, audio, is_final in steps:
        now += wait
        cut.feed(audio, is_final=is_final, now=now)
        cuts += cut.due(now)
        fed += len(audio)
        assert sum(len(one.audio) for one in cuts) + cut.buffered_bytes == fed
    cuts += cut.close()
    assert b"".join(one.audio for one in cuts) == b"".join(audio for _, audio, _ in steps)
    assert [one.index for one in cuts] == list(range(3, 3 + len(cuts)))
    assert all(one.audio for one in cuts)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no claim about speed
@given(st.lists(STEPS, max_size=25))
def test_how_often_one_asks_changes_nothing(steps):
    lazy, eager, now = Cutter(SMALL), Cutter(SMALL), 0.0
    asked: list[Cut] = []
    for wait, audio, is_final in steps:
        now += wait
        while (deadline := eager.next_deadline()) is not None and deadline <= now:
            asked += eager.due(deadline)
        for one in (lazy, eager):
            one.feed(audio, is_final=is_final, now=now)
    assert lazy.due(now + 60.0) == asked + eager.due(now + 60.0)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no claim about speed
@given(st.lists(STEPS, min_size=1, max_size=25))
def test_after_the_last_chunk_everything_is_cut_by_the_timers_alone(steps):
    cut, now = Cutter(SMALL), 0.0
    for wait, audio, is_final in steps:
        now += wait
        cut.feed(audio, is_final=is_final, now=now)
    cuts, deadlines = cut.due(now), [now]
    while (deadline := cut.next_deadline()) is not None:
        deadlines.append(deadline)
        cuts += cut.due(deadline)
    assert all(earlier <= later for earlier, later in pairwise(deadlines))
    assert deadlines[-1] <= now + 3.0 + 0.2 + 0.2
    assert b"".join(one.audio for one in cuts) == b"".join(audio for _, audio, _ in steps)
