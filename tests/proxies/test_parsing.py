import pytest
from hypothesis import given, strategies as st

from annot_hf.data.questions import Question
from annot_hf.proxies.parsing import check_labels, parse_reply

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


MOODS = ["anger", "joy", "sadness"]


@pytest.mark.parametrize("parsing", ["strict", "published"])
@pytest.mark.parametrize(
    ("reply", "label"),
    [
        ("<think>The prompt lists anger first. I hear joy.</think>\n\njoy", 1),
        ("I hear joy, not anger.\n</think>\n- sadness", 2),
        ("<think>anger</think> hm <think>joy</think>**Sadness**", 2),
        ("<thinking>anger?</thinking><answer>joy</answer>", 1),
        ("<THOUGHT>anger</THOUGHT>\nAnswer: joy.", 1),
        ("[THINK]anger[/THINK]joy", 1),
        ("◁think▷anger◁/think▷joy", 1),
        ("<seed:think>anger</seed:think>joy", 1),
        ("<|channel|>analysis<|message|>anger<|end|><|start|>assistant<|channel|>final<|message|>joy<|return|>", 1),
        ("analysisThey sound like anger.assistantfinaljoy", 1),
        ("<|begin_of_thought|>anger<|end_of_thought|><|begin_of_solution|>joy<|end_of_solution|>", 1),
        ("<|think|>anger<|/think|>joy", 1),
        ("<|START_THINKING|>anger<|END_THINKING|><|START_RESPONSE|>joy<|END_RESPONSE|>", 1),
        ("<|channel>thought\nThey sound like anger.<channel|>joy<turn|>", 1),
        ("<|channel>thought\n<channel|>joy", 1),
        ("thought\nThey sound like anger.<channel|>joy", 1),
        ("<think>anger</think>" * 100_000 + "joy", 1),
        ("<think>" + "anger or joy? " * 5_000 + "</think>joy", 1),
    ],
)
def test_the_answer_stands_after_the_thoughts(reply, label, parsing):
    assert parse_reply(reply, MOODS, parsing=parsing) == ("label", label)


@pytest.mark.parametrize("parsing", ["strict", "published"])
@pytest.mark.parametrize(
    "reply",
    [
        "<think>anger",
        "<think>anger</think>",
        "joy</think>",
        "joy <think>or anger",
        "<think>anger</think>joy<think>or sadness",
        "<think>anger</think>\n <thinking> joy",
        "<|channel|>analysis<|message|>joy",
        "[THINK]joy",
        "<|think|>joy",
        "<|think|>anger<|/think|><|think|>joy",
        "<|begin_of_thought|>joy",
        "<reasoning effort=low>joy",
        "<|channel>thought\njoy",
        "thought\nI hear joy.",
    ],
)
def test_thoughts_are_no_answer(reply, parsing):
    assert parse_reply(reply, MOODS, parsing=parsing) == ("empty", -1)


def test_a_published_vote_is_not_read_off_a_reply_that_may_be_thoughts_cut_short():
    assert parse_reply("They might mean joy, or", MOODS, parsing="published", cut=True) == ("off-list", -1)
    assert parse_reply("They might mean joy, or", MOODS, parsing="published") == ("label", 1)
    assert parse_reply("joy", MOODS, parsing="published", cut=True) == ("label", 1)


@pytest.mark.parametrize(
    "reply",
    ["- joy", "* joy", "+ joy", "• joy", "– Joy.", "1. joy", "2) joy", "**1.** joy", "## joy", "- **joy**", '- "joy"']
    + ["Answer: - joy", "-\tjoy", "\n- joy\n", "<answer> joy </answer>", "> joy", "joy<|im_end|>", "joy</s>"],
)
def test_a_label_may_be_marked_as_the_prompt_lists_it(reply):
    assert parse_reply(reply, MOODS) == ("label", 1)


@pytest.mark.parametrize(
    "reply", ["- joy\n- anger", "1. joy 2. anger", "- not joy", "- joy - anger", "not - joy", "joy -", "1 joy", "-"]
)
def test_a_list_is_no_answer(reply):
    assert parse_reply(reply, MOODS) == ("off-list", -1)


def test_a_mark_that_may_be_part_of_a_number_is_none():
    signed = ["1", "0", "-1", "2"]
    for reply in ("- 1", "1. 2", "0) 1"):
        assert parse_reply(reply, signed) == ("off-list", -1)
    assert parse_reply("- 2", signed) == ("label", 3)
    assert parse_reply("- joy", ["joy", "- joy"]) == ("label", 1)


@given(st.text(max_size=60), st.sampled_from(NESTED))
def test_a_label_inside_other_words_never_counts(around, label):
    kind, found = parse_reply(f"x{around}{label}y", NESTED)
    assert kind != "label" or NESTED[found] != label


@given(st.text(max_size=80))
def test_every_reply_is_one_kind(reply):
    kind, found = parse_reply(reply, NESTED, prompt=PROMPT)
    assert (kind == "label") == (found >= 0)


def test_labels_that_no_reply_tells_apart():
    with pytest.raises(ValueError, match="'joy' and 'Joy.' of question 'mood' differ in case or punctuation only"):
        check_labels(Question.category("mood", ["joy", "Joy."]))
    with pytest.raises(ValueError, match="'...' of question 'mood' is punctuation only"):
        check_labels(Question.category("mood", ["joy", "..."]))
    check_labels(Question.category("mood", NESTED))
