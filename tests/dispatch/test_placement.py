"""Level 1: the fitting classes that have a free node, the narrowest first, sixteen at the most (DESIGN 4)."""

from hypothesis import given
from hypothesis import strategies as st

from dispatch.languages import fits
from dispatch.placement import DEFAULT_CELL, HINTS, CellFigures, Choice, Directory

KIND = "aud:public,pair:en>es|tenant"


def directory(classes: dict[str, str], free: dict[str, int]) -> Directory:
    book = Directory()
    book.cells[DEFAULT_CELL] = CellFigures(classes, free)
    return book


def tokens(*extra: str) -> str:
    return f",{','.join(['aud:public', 'pair:en>es', *extra])},"


def test_a_cell_that_nobody_knows_yet_is_chosen_all_the_same():
    assert Directory().choose(KIND) == Choice(DEFAULT_CELL, (), 0)


def test_a_class_without_a_needed_token_is_no_hint():
    assert directory({"c": ",aud:public,pair:es>en,"}, {"c": 1}).choose(KIND) == Choice(DEFAULT_CELL, (), 0)


def test_the_tenant_is_not_a_token():
    assert directory({"c": tokens()}, {"c": 1}).choose(KIND).hints == ("c",)


def test_a_class_without_a_free_node_fits_and_is_no_hint():
    book = directory({"busy": tokens(), "gone": tokens("svc:asr")}, {"busy": 0})
    assert book.choose(KIND) == Choice(DEFAULT_CELL, (), 2)


def test_the_narrowest_class_comes_first():
    book = directory({"wide": tokens("pair:es>en", "svc:asr"), "narrow": tokens()}, {"wide": 9, "narrow": 1})
    assert book.choose(KIND).hints == ("narrow", "wide")


def test_sixteen_hints_travel_and_all_fitting_classes_are_counted():
    classes = {f"c{number:02}": tokens(f"svc:{'x' * number}") for number in range(40)}
    choice = directory(classes, dict.fromkeys(classes, 1)).choose(KIND)
    assert choice.hints == tuple(f"c{number:02}" for number in range(HINTS))
    assert choice.fitting == 40


names = st.sets(st.sampled_from(["aud:public", "pair:en>es", "pair:es>en", "svc:asr"]))


@given(st.dictionaries(st.text("abc", min_size=1), st.tuples(names, st.integers(0, 2)), max_size=8))
def test_every_hint_fits_and_is_free_and_equal_figures_give_equal_answers(nodes):
    classes = {name: f",{','.join(sorted(has))}," for name, (has, _) in nodes.items()}
    free = {name: count for name, (_, count) in nodes.items()}
    choice = directory(classes, free).choose(KIND)
    assert set(choice.hints) == {name for name in classes if free[name] and fits(KIND.partition("|")[0], classes[name])}
    shuffled = dict(sorted(classes.items(), reverse=True))
    assert directory(shuffled, free).choose(KIND) == choice
