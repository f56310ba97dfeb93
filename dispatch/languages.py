"""Languages and fitting: codes made equal, directed pairs, and the tokens by which jobs and nodes find each other.

What a node can do is its *class*, a set of tokens written `,aud:public,pair:en>es,svc:asr,`; what a job asks for is its
*kind*, a list of tokens such as `aud:public,pair:en>es,svc:asr`. A node fits when every token of the kind occurs in
its class: one plain text search per token, the same here and in Lua.
"""

import re
from collections.abc import Collection, Iterable, Iterator
from hashlib import blake2b
from typing import Protocol

AUTO = "auto"  #: source language found by the node's ASR
NOTHING = ","  #: the class of a node that takes no work now

Pair = tuple[str, str]  #: source, target

_OBSOLETE = {"iw": "he", "in": "id", "ji": "yi"}  # withdrawn from ISO 639, still said by old Java and Android
_LANGUAGE = re.compile(r"[a-z0-9-]+")
_NAME = re.compile(r"[A-Za-z0-9._-]+")


class DirectedPair(Protocol):
    """A pair as a node writes it."""

    @property
    def src(self) -> str: ...
    @property
    def tgt(self) -> str: ...


class Translator(Protocol):
    """One translation model of a node (PROTOCOL 3.2, `nmt`)."""

    @property
    def languages(self) -> Collection[str]: ...
    @property
    def rule(self) -> str: ...
    @property
    def supported_pairs(self) -> Collection[DirectedPair] | None: ...
    @property
    def blocked_pairs(self) -> Collection[DirectedPair] | None: ...


class LanguageReport(Protocol):
    """What a node says about its languages (PROTOCOL 3.2, `language_capabilities`)."""

    @property
    def asr_languages(self) -> Collection[str] | None: ...
    @property
    def tts_languages(self) -> Collection[str] | None: ...
    @property
    def semantic_languages(self) -> Collection[str] | None: ...
    @property
    def nmt_capabilities(self) -> Collection[Translator] | None: ...
    @property
    def supported_language_pairs(self) -> Collection[DirectedPair] | None: ...


class InstalledService(Protocol):
    """A service on a node."""

    @property
    def service_id(self) -> str: ...
    @property
    def ready(self) -> bool: ...


class Abilities(Protocol):
    """What a class is made of."""

    @property
    def services(self) -> Iterable[InstalledService]: ...
    @property
    def ready_types(self) -> Iterable[str]: ...
    @property
    def pairs(self) -> Iterable[Pair]: ...
    @property
    def features(self) -> Iterable[str]: ...
    @property
    def accept_public(self) -> bool: ...


def normalise(code: str) -> str:
    """The primary subtag in lower case: `zh-Hans-CN`, `zh_CN` and `ZH` are `zh`; `iw` is `he`; `auto` stays `auto`."""
    primary = code.strip().lower().replace("_", "-").partition("-")[0]
    return _OBSOLETE.get(primary, primary)


def is_language(code: str) -> bool:
    """Whether a normalised code can stand in a token."""
    return _LANGUAGE.fullmatch(code) is not None


def derive_pairs(report: LanguageReport | None, require_semantic: bool = False) -> frozenset[Pair]:
    """The directed pairs that a node serves, `auto` as a source included.

    The node's own `supported_language_pairs` win when there are any. Otherwise a pair is served when its source is
    among the ASR languages, some translation model allows it, and its target is among the TTS languages; with
    `require_semantic` both must be among the semantic languages too. A list that is absent restricts nothing.
    `auto` into a target is served by a node that tells at least two languages apart and translates one into it.
    """
    if report is None:
        return frozenset()
    hears = _known(report.asr_languages)
    pairs = set(_pairs(report.supported_language_pairs))
    if not pairs:
        speaks = _known(report.tts_languages)
        mends = _known(report.semantic_languages) if require_semantic else None
        pairs = {
            (src, tgt)
            for model in report.nmt_capabilities or ()
            for src, tgt in _translates(model)
            if (hears is None or src in hears) and (speaks is None or tgt in speaks)
            if mends is None or {src, tgt} <= mends
        }
    if hears is None or len(hears - {AUTO}) >= 2:
        pairs |= {(AUTO, tgt) for src, tgt in pairs if src not in (tgt, AUTO)}
    return frozenset(pairs)


def class_tokens(abilities: Abilities, ready: bool) -> str:
    """The class of a node: its tokens, sorted, each with a comma on both sides; `,` when it takes no work now.

    Names that could be mistaken for other tokens are left out: a node may lack an ability by a bad name, not gain one.
    """
    if not ready:
        return NOTHING
    tokens = {f"pair:{src}>{tgt}" for src, tgt in abilities.pairs if is_language(src) and is_language(tgt)}
    names = {service.service_id for service in abilities.services if service.ready} | set(abilities.ready_types)
    tokens |= {f"svc:{name}" for name in names if _NAME.fullmatch(name)}
    tokens |= {f"feat:{name}" for name in abilities.features if _NAME.fullmatch(name)}
    if abilities.accept_public:
        tokens.add("aud:public")
    return f",{','.join(sorted(tokens))}," if tokens else NOTHING


def class_id(tokens: str) -> str:
    """A short name for a class, the same on every instance: 16 hex digits."""
    return blake2b(tokens.encode(), digest_size=8).hexdigest()


def kind_tokens(
    src: str,
    tgt: str,
    auto_langs: Iterable[str] = (),
    services: Iterable[str] = (),
    features: Iterable[str] = (),
    audience: str = "public",
) -> str:
    """The kind of a job: the tokens it needs, sorted and joined by commas. Language codes are normalised ones.

    With source `auto` the node must also translate from every candidate in `auto_langs`. Raises `ValueError` for a
    name that cannot be a token: to leave out a need would let the job run where it must not (P4).
    """
    pairs = {(src, tgt)}
    if src == AUTO:
        pairs |= {(candidate, tgt) for candidate in auto_langs if candidate != tgt}
    tokens = {f"pair:{_checked(_LANGUAGE, a)}>{_checked(_LANGUAGE, b)}" for a, b in pairs}
    tokens |= {f"svc:{_checked(_NAME, name)}" for name in services}
    tokens |= {f"feat:{_checked(_NAME, name)}" for name in features}
    tokens.add(f"aud:{_checked(_NAME, audience)}")
    return ",".join(sorted(tokens))


def fits(kind: str, tokens: str) -> bool:
    """Whether a node of this class can do a job of this kind."""
    return all(f",{token}," in tokens for token in kind.split(","))


def _known(codes: Iterable[str] | None) -> frozenset[str] | None:
    return None if codes is None else frozenset(map(normalise, codes))


def _pairs(pairs: Iterable[DirectedPair] | None) -> Iterator[Pair]:
    return ((normalise(pair.src), normalise(pair.tgt)) for pair in pairs or ())


def _translates(model: Translator) -> set[Pair]:
    """Pairs of one model by its rule, blocked ones taken out, and nothing into itself."""
    languages = set(map(normalise, model.languages))
    match model.rule:
        case "any_to_any":
            pairs = {(src, tgt) for src in languages for tgt in languages}
        case "any_to_en":
            pairs = {(src, "en") for src in languages}
        case "en_to_any":
            pairs = {("en", tgt) for tgt in languages}
        case "specific_pairs":
            pairs = set(_pairs(model.supported_pairs))
        case _:  # a rule of the future promises nothing
            pairs = set()
    return {(src, tgt) for src, tgt in pairs.difference(_pairs(model.blocked_pairs)) if src != tgt}


def _checked(allowed: re.Pattern[str], name: str) -> str:
    if not allowed.fullmatch(name):
        raise ValueError(f"{name!r} cannot name a language, service, feature or audience: use {allowed.pattern}")
    return name
