"""A Lua header cannot lie: header, `unpack` lines, use, answers, wrapper and FSM arrows hold together (STYLE 3.2)."""

import re
from pathlib import Path

import pytest

from dispatch import fsm
from dispatch.store.script import FOLDER, Script

STORE = Path(__file__).parents[1] / "dispatch" / "store"
SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.lua"))

every_script = pytest.mark.parametrize("script", [Script.load(name) for name in SCRIPTS], ids=SCRIPTS)


def code(text: str) -> str:
    """Lua without its comments."""
    return re.sub(r"--.*", "", text)


def unpacked(script: Script, source: str) -> list[str]:
    line = re.search(rf"^local ([\w, ]+) = unpack\({source}\)$", script.text, re.MULTILINE)
    return line[1].split(", ") if line else []


@every_script
def test_a_header_names_what_is_unpacked_in_the_same_order(script: Script):
    assert script.text.startswith("--- ")
    assert list(script.keys) == unpacked(script, "KEYS")
    assert [name for name, _ in script.args] == unpacked(script, "ARGV")


@every_script
def test_every_name_of_a_header_is_used(script: Script):
    body = re.sub(r"^local .* = unpack\((KEYS|ARGV)\)$", "", code(script.source), flags=re.MULTILINE)
    names = {*script.keys, *(name for name, _ in script.args)}
    assert names <= set(re.findall(r"\w+", body))


@every_script
def test_a_header_promises_every_answer_and_no_other(script: Script):
    answered = re.findall(r'(?:answer\(|return \{)"(\w+)"', code(script.text))
    for choice in re.findall(r"\bword = (.*)", code(script.text)):
        answered += re.findall(r'"(\w+)"', choice)
    assert set(script.returns) == set(answered)


@every_script
def test_one_function_in_the_store_calls_it(script: Script):
    wrappers = "".join(path.read_text("utf-8") for path in STORE.glob("*.py") if path.stem != "script")
    assert len(re.findall(rf'(?:_call|Script\.load)\(\s*"{script.name}"', wrappers)) == 1


@every_script
def test_no_key_is_made_of_data(script: Script):
    """A command gets a name out of KEYS, or a loop variable or first parameter that only ever stands for such names."""
    source = code(script.source)
    names = set(script.keys)
    for variable, listed in re.findall(r"for _, (\w+) in ipairs\(\{([\w, ]+)\}\) do", source):
        if set(listed.split(", ")) <= names:
            names.add(variable)
    for function, parameter in re.findall(r"local function (\w+)\((\w+)", source):
        handed_in = re.findall(rf"(?<!function )\b{function}\(([^,)]*)", source)
        if handed_in and set(handed_in) <= names:
            names.add(parameter)
    keys = re.findall(r'redis\.p?call\("(?!TIME")(?:XGROUP", ")?\w+", ([^,)]*)', source)
    assert keys
    assert set(keys) <= names


def test_the_arrows_in_lua_are_those_of_the_fsm():
    text = "".join(code(path.read_text("utf-8")) for path in FOLDER.rglob("*.lua"))
    arrows = re.findall(r'advance\(\w+, "(\w+)", "(\w+)"\)', text)
    assert len(arrows) == text.count("advance(") - 1, "every call but the definition names both states"
    assert set(arrows) == fsm.ARROWS
