"""Codes, pairs, and who fits whom."""

import itertools
import string
from collections.abc import Collection
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dispatch.languages import (
    NOTHING,
    class_id,
    class_tokens,
    derive_pairs,
    fits,
    kind_tokens,
    normalise,
)


@dataclass(frozen=True)
class Pair:
    src: str
    tgt: str


@dataclass(frozen=True)
class Model:
    languages: Collection[str] = ()
    rule: str = "any_to_any"
    supported_pairs: Collection[Pair] | None = None
    blocked_pairs: Collection[Pair] | None = None


@dataclass(frozen=True)
class Report:
    asr_languages: Collection[str] | None = None
    tts_languages: Collection[str] | None = None
    semantic_languages: Collection[str] | None = None
    nmt_capabilities: Collection[Model] | None = None
    supported_language_pairs: Collection[Pair] | None = None


@dataclass(frozen=True)
class Service:
    service_id: str
    ready: bool = True


@dataclass(frozen=True)
class Node:
    services: Collection[Service] = (Service("nmt-m2m100"),)
    ready_types: Collection[str] = ("asr", "nmt", "tts")
    pairs: Collection[tuple[str, str]] = (("en", "es"),)
    features: Collection[str] = field(default=("emotion_detection",))
    accept_public: bool = True


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("zh", "zh"),
        ("zh-CN", "zh"),
        ("ZH_hant_TW", "zh"),
        (" pt-BR ", "pt"),
        ("en-GB", "en"),
        ("iw", "he"),
        ("in-ID", "id"),
        ("haw", "haw"),
        ("auto", "auto"),
        ("AUTO", "auto"),
        ("", ""),
    ],
)
def test_a_language_has_one_code(said, meant):
    assert normalise(said) == meant
    assert normalise(meant) == meant


def test_the_nodes_own_pairs_win_over_its_lists():
    report = Report(
        asr_languages=["en"],
        nmt_capabilities=[Model(["en", "fr"])],
        supported_language_pairs=[Pair("zh-CN", "EN")],
    )
    assert derive_pairs(report) == {("zh", "en")}


def test_an_empty_list_of_pairs_is_no_answer():
    report = Report(asr_languages=["en"], nmt_capabilities=[Model(["en", "fr"])], supported_language_pairs=[])
    assert derive_pairs(report) == {("en", "fr")}


def test_a_pair_needs_an_ear_a_translator_and_a_voice():
    report = Report(
        asr_languages=["zh", "en"], tts_languages=["en", "ja"], nmt_capabilities=[Model(["zh", "en", "ja"])]
    )
    assert derive_pairs(report) == {("zh", "en"), ("zh", "ja"), ("en", "ja"), ("auto", "en"), ("auto", "ja")}


@pytest.mark.parametrize(
    ("model", "pairs"),
    [
        (Model(["en", "fr"]), {("en", "fr"), ("fr", "en")}),
        (Model(["en", "fr", "de"], "any_to_en"), {("fr", "en"), ("de", "en")}),
        (Model(["fr"], "any_to_en"), {("fr", "en")}),
        (Model(["en", "fr"], "en_to_any"), {("en", "fr")}),
        (Model(["de"], "specific_pairs", supported_pairs=[Pair("fr", "en")]), {("fr", "en")}),
        (Model(["de", "fr"], "specific_pairs"), set()),
        (Model(["en", "fr"], "telepathy"), set()),
        (Model(["en", "fr"], blocked_pairs=[Pair("FR", "en-US")]), {("en", "fr")}),
    ],
)
def test_a_model_translates_by_its_rule(model, pairs):
    assert {pair for pair in derive_pairs(Report(nmt_capabilities=[model])) if pair[0] != "auto"} == pairs


def test_what_one_model_blocks_another_may_do():
    models = [Model(["en", "fr"], blocked_pairs=[Pair("en", "fr")]), Model(["en", "fr"], "en_to_any")]
    assert ("en", "fr") in derive_pairs(Report(nmt_capabilities=models))


def test_an_empty_list_restricts_to_nothing_an_absent_one_not_at_all():
    models = [Model(["en", "fr"])]
    assert derive_pairs(Report(asr_languages=[], nmt_capabilities=models)) == frozenset()
    assert derive_pairs(Report(tts_languages=[], nmt_capabilities=models)) == frozenset()
    assert {("en", "fr"), ("fr", "en")} < derive_pairs(Report(nmt_capabilities=models))


def test_semantic_languages_count_only_when_required():
    report = Report(nmt_capabilities=[Model(["en", "fr", "zh"])], semantic_languages=["en", "zh"])
    assert ("en", "fr") in derive_pairs(report)
    assert {pair for pair in derive_pairs(report, require_semantic=True) if pair[0] != "auto"} == {
        ("en", "zh"),
        ("zh", "en"),
    }


@pytest.mark.parametrize(
    ("hears", "targets"),
    [
        (None, {"en", "fr"}),
        (["en", "fr"], {"en", "fr"}),
        (["en"], set()),
        (["en", "en-US"], set()),
        (["en", "auto"], set()),
        ([], set()),
    ],
)
def test_auto_needs_an_ear_for_two_languages(hears, targets):
    report = Report(asr_languages=hears, supported_language_pairs=[Pair("en", "fr"), Pair("fr", "en")])
    assert {tgt for src, tgt in derive_pairs(report) if src == "auto"} == targets


def test_auto_needs_another_language_to_translate_from():
    report = Report(asr_languages=["en", "fr"], supported_language_pairs=[Pair("en", "en")])
    assert derive_pairs(report) == {("en", "en")}


def test_nothing_said_is_nothing_served():
    assert derive_pairs(None) == frozenset()
    assert derive_pairs(Report()) == frozenset()


def test_a_class_is_its_tokens_in_order():
    assert class_tokens(Node(), ready=True) == (
        ",aud:public,feat:emotion_detection,pair:en>es,svc:asr,svc:nmt,svc:nmt-m2m100,svc:tts,"
    )


def test_a_node_that_is_not_ready_serves_nothing():
    assert class_tokens(Node(), ready=False) == NOTHING
    assert not fits(kind_tokens("en", "es"), NOTHING)


def test_a_service_that_is_not_ready_is_no_token():
    node = Node(services=[Service("piper-tts", ready=False)], ready_types=["asr"])
    assert "tts" not in class_tokens(node, ready=True)


def test_a_node_without_public_jobs_gets_none():
    tokens = class_tokens(Node(accept_public=False), ready=True)
    assert not fits(kind_tokens("en", "es", services=["asr"]), tokens)
    assert fits(kind_tokens("en", "es", services=["asr"]), class_tokens(Node(), ready=True))


def test_odd_names_of_a_node_are_left_out():
    node = Node(
        services=[Service("x,aud:public"), Service("a b"), Service("")],
        pairs=[("en,svc:tts", "es"), ("en", "ES"), ("en", "")],
        ready_types=["asr,svc:nmt", "n|x"],
        features=["a,b"],
        accept_public=False,
    )
    assert class_tokens(node, ready=True) == NOTHING


def test_a_kind_is_what_the_job_needs_in_order():
    kind = kind_tokens("en", "es", services=["tts", "asr", "nmt"], features=["emotion_detection"])
    assert kind == "aud:public,feat:emotion_detection,pair:en>es,svc:asr,svc:nmt,svc:tts"


def test_a_two_way_kind_needs_every_candidate_but_the_target():
    assert kind_tokens("auto", "en", auto_langs=["zh", "en", "auto"]) == "aud:public,pair:auto>en,pair:zh>en"
    assert kind_tokens("en", "zh", auto_langs=["fr"]) == "aud:public,pair:en>zh"


@pytest.mark.parametrize(
    "needs",
    [
        {"src": "en,x", "tgt": "es"},
        {"src": "", "tgt": "es"},
        {"src": "en", "tgt": "EN US"},
        {"src": "auto", "tgt": "es", "auto_langs": ["a>b"]},
        {"src": "en", "tgt": "es", "services": ["asr,"]},
        {"src": "en", "tgt": "es", "features": [""]},
        {"src": "en", "tgt": "es", "audience": "a b"},
    ],
)
def test_a_need_that_cannot_be_said_is_an_error_not_a_smaller_need(needs):
    with pytest.raises(ValueError, match="cannot name a language, service, feature or audience"):
        kind_tokens(**needs)


def test_a_token_fits_only_whole():
    assert not fits("svc:nmt", ",svc:nmt-m2m100,")
    assert not fits("pair:en>e", ",pair:en>es,")
    assert fits("pair:en>es", ",pair:en>es,")


def test_a_class_id_is_short_and_stable():
    assert class_id(",aud:public,") == "06aeafca165b1f89"
    assert class_id(",a,") != class_id(",b,")


CODES = st.sampled_from(["en", "es", "zh", "fr", "auto"])
NAMES = st.sampled_from(["asr", "nmt", "tts", "nmt-m2m100", "nmt-m2m"])
ODD = st.text(alphabet=string.printable, max_size=4)
PAIRS = st.lists(st.tuples(CODES | ODD, CODES | ODD), max_size=5)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no claim about speed
@given(PAIRS, st.lists(NAMES | ODD, max_size=3), st.tuples(CODES, CODES), st.lists(NAMES, max_size=2), st.booleans())
def test_a_node_fits_exactly_when_it_has_all_that_is_needed(pairs, types, wanted, services, public):
    node = Node(services=[], ready_types=types, pairs=pairs, features=[], accept_public=public)
    src, tgt = wanted
    kind = kind_tokens(src, tgt, services=services)
    expected = public and wanted in pairs and set(services) <= set(types)
    assert fits(kind, class_tokens(node, ready=True)) == expected


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # no claim about speed
@given(st.lists(st.sampled_from(["en", "zh-CN", "iw", "fr"]), unique=True, max_size=4))
def test_the_order_of_a_nodes_lists_makes_no_class(languages):
    ids = {
        class_id(class_tokens(Node(pairs=derive_pairs(Report(nmt_capabilities=[Model(order)]))), ready=True))
        for order in itertools.permutations(languages)
    }
    assert len(ids) == 1
