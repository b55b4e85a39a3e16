import pytest
from hypothesis import given, strategies as st

from annot_hf.proxies.parsing import ambiguous_labels, parse_reply

NESTED = ["happy", "unhappy", "very happy", "happy-go-lucky"]
PROMPT = (
    "Attend to the tone of the voice.\nLabels: happy, unhappy, very happy, happy-go-lucky\nAnswer with exactly one."
)


@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("happy", 0),
        (" Unhappy.\n", 1),
        ("**VERY HAPPY**", 2),
        ('"very  happy"', 2),
        ("Answer: unhappy", 1),
        ("The emotion is happy-go-lucky.", 3),
        ("label = happy", 0),
        ("ｈａｐｐｙ", 0),
    ],
)
def test_a_label_is_found_whatever_surrounds_it(reply, label):
    assert parse_reply(reply, NESTED, prompt=PROMPT) == ("label", label)


@pytest.mark.parametrize(
    ("reply", "kind"),
    [
        ("happyish", "off-list"),
        ("not happy", "off-list"),
        ("happy or unhappy", "off-list"),
        ("happy, because the voice rises", "off-list"),
        ("sad", "off-list"),
        ("1", "off-list"),
        ("", "empty"),
        (None, "empty"),
        (" ** ", "empty"),
        ("I'm sorry, I can't listen to audio.", "refusal"),
        ("I’m sorry", "refusal"),
        ("As an AI, I have no ears", "refusal"),
        ("Labels: happy, unhappy, very happy, happy-go-lucky", "echo"),
        (PROMPT, "echo"),
    ],
)
def test_what_is_no_label_is_no_vote(reply, kind):
    assert parse_reply(reply, NESTED, prompt=PROMPT) == (kind, -1)


def test_the_published_rule_takes_the_first_label_that_is_contained():
    assert parse_reply("not unhappy", NESTED, parsing="published") == ("label", 0)
    assert parse_reply("very happy", NESTED, parsing="published") == ("label", 2)  # exact before contained
    assert parse_reply("I cannot tell, perhaps sad", ["angry", "sad"], parsing="published") == ("label", 1)
    assert parse_reply("nothing of it", ["angry", "sad"], parsing="published")[0] == "off-list"


def test_numbers_with_signs_are_labels_of_their_own():
    assert [parse_reply(reply, ["1", "0", "-1"])[1] for reply in ("1", "-1", "0.", "-2")] == [0, 2, 1, -1]


def test_a_reply_that_was_cut_short_is_not_taken_for_a_shorter_label():
    labels = ["happy", "happy and surprised", "sad"]
    assert parse_reply("happy", labels, cut=True) == ("off-list", -1)
    assert parse_reply("happy", labels) == ("label", 0)
    assert parse_reply("sad", labels, cut=True) == ("label", 2)


@pytest.mark.parametrize("reply", ["愤怒。", "「愤怒」", "愤怒！", "愤怒、"])
def test_full_stops_of_other_scripts(reply):
    assert parse_reply(reply, ["高兴", "愤怒"]) == ("label", 1)


@given(st.text(max_size=60), st.sampled_from(NESTED))
def test_a_label_inside_other_words_never_counts(around, label):
    kind, found = parse_reply(f"x{around}{label}y", NESTED)
    assert kind != "label" or NESTED[found] != label


@given(st.text(max_size=80))
def test_every_reply_is_one_kind(reply):
    kind, found = parse_reply(reply, NESTED, prompt=PROMPT)
    assert (kind == "label") == (found >= 0)


def test_labels_that_no_reply_tells_apart():
    assert ambiguous_labels(["joy", "Joy."]) == ("joy", "Joy.")
    assert ambiguous_labels(["joy", "..."]) == ("...", "")
    assert ambiguous_labels(NESTED) is None
