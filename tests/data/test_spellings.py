"""Spellings of one name are proposed, and merged only by the user, with every count."""

import unicodedata
from collections import Counter

import pytest
from hypothesis import given, strategies as st

from annot_hf.data.own_votes import Reading, read_own_votes
from annot_hf.data.spellings import Aliases, edits, propose_aliases, read_aliases, write_aliases


@pytest.mark.parametrize(
    ("votes", "proposed"),
    [
        ({"anger": 90, "Anger": 3, "anger ": 2, "calm": 50}, {"Anger": "anger", "anger ": "anger"}),
        (
            {"fröhlich": 9, unicodedata.normalize("NFD", "fröhlich"): 1},
            {unicodedata.normalize("NFD", "fröhlich"): "fröhlich"},
        ),
        ({"happiness": 90, "hapiness": 4, "happines": 1}, {"hapiness": "happiness", "happines": "happiness"}),
        ({"angre": 2, "anger": 90}, {"angre": "anger"}),
        # two frequent labels, numbers and short words are no misspellings
        ({"moral": 90, "morale": 80}, {}),
        ({"type 1": 90, "type 2": 1}, {}),
        ({"sad": 90, "mad": 1}, {}),
        ({"1": 5, "1.0": 2, "01": 1, "0": 3, "2": 1}, {"1.0": "1", "01": "1"}),
        ({}, {}),
    ],
)
def test_what_is_proposed(votes, proposed):
    assert propose_aliases(votes) == proposed


def test_what_is_near_a_label_that_was_asked_for_is_proposed_as_that_label(tmp_path):
    assert propose_aliases({"joy": 24, "sad": 12, "hapyp": 9, "bad": 3}, ["Joy", "sad", "happy"]) == {
        "joy": "Joy",
        "hapyp": "happy",
    }
    path = tmp_path / "votes.csv"
    path.write_text("item,rater,label\n" + "".join(f"i{n},ann,{'joy' if n % 3 else 'sad'}\n" for n in range(9)))
    found = read_own_votes(path, Reading(question=["label=Joy,sad"]))
    assert found.proposed.labels == {"label": {"joy": "Joy"}} and len(found.frame) == 3
    write_aliases(tmp_path / "l.yaml", found.proposed, found.spellings)
    again = read_own_votes(path, Reading(question=["label=Joy,sad"], aliases=read_aliases(tmp_path / "l.yaml")))
    assert len(again.frame) == 9


@pytest.mark.parametrize("odd", ["😀 joy", 'say "x"', "a\x7fb", "two\nlines", "li\u2028ne", "no", "~", "tab\tbed: #1"])
def test_any_spelling_survives_the_file(odd, tmp_path):
    names = {odd: 9, odd + " ": 2}
    assert propose_aliases(names) == {odd + " ": odd}
    write_aliases(tmp_path / "l.yaml", Aliases({odd: {odd + " ": odd}}), {odd: names})
    assert read_aliases(tmp_path / "l.yaml").labels == {odd: {odd + " ": odd}}


@given(st.text("ab", max_size=6), st.text("ab", max_size=6))
def test_edits_are_those_of_the_definition(first, second):
    """Optimal string alignment, by its recursion."""

    def distance(i, j):
        if not i or not j:
            return i + j
        ways = [
            distance(i - 1, j) + 1,
            distance(i, j - 1) + 1,
            distance(i - 1, j - 1) + (first[i - 1] != second[j - 1]),
        ]
        if i > 1 and j > 1 and first[i - 1] == second[j - 2] and first[i - 2] == second[j - 1]:
            ways.append(distance(i - 2, j - 2) + 1)
        return min(ways)

    assert edits(first, second, 9) == distance(len(first), len(second))


def test_proposals_are_written_edited_and_merged_with_their_counts(tmp_path):
    path = tmp_path / "votes.csv"
    said = (
        [("joy", "ann")] * 20 + [("Joy ", "ann")] * 2 + [("sad", "ben")] * 20 + [("sad", "BEN")] * 3 + [("yoj", "ben")]
    )
    path.write_text(
        "item,rater,label\n" + "".join(f'i{n},{rater},"{label}"\n' for n, (label, rater) in enumerate(said))
    )
    found = read_own_votes(path)
    assert found.proposed == Aliases({"label": {"Joy ": "joy"}}, {"BEN": "ben"})
    # nothing is merged by itself
    assert Counter(found.frame["value"]) == {"joy": 20, "Joy ": 2, "sad": 23, "yoj": 1}
    write_aliases(tmp_path / "labels.yaml", found.proposed, found.spellings)
    text = (tmp_path / "labels.yaml").read_text()
    assert '"Joy ": "joy"  # 2 votes as 20' in text and '"BEN": "ben"  # 3 votes as 21' in text
    assert read_aliases(tmp_path / "labels.yaml") == found.proposed
    (tmp_path / "labels.yaml").write_text(text.replace("raters:", '    "yoj": null\n    "gone": "joy"\nraters:'))
    merged = read_own_votes(path, Reading(aliases=read_aliases(tmp_path / "labels.yaml")))
    assert Counter(merged.frame["value"]) == {"joy": 22, "sad": 23} and merged.proposed == Aliases()
    assert Counter(merged.frame["annotator"]) == {"ann": 22, "ben": 23}
    counted = {reason: (one.count, one.votes, list(one.examples)) for reason, one in merged.left_out.items()}
    assert counted == {
        "raters read as another, by the aliases": (3, 0, ["'BEN' as 'ben' (3)"]),
        "labels of label read as another, by the aliases": (2, 0, ["'Joy ' as 'joy' (2)"]),
        "votes of labels of label that the aliases leave out": (1, 1, ["yoj"]),
        "aliases of names that do not occur": (1, 0, ["gone"]),
    }
    assert merged.votes_read == found.votes_read == 46


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a", r"holds \['a'\]; write `labels:`"),
        ("label: {}", r"holds 'label'; write"),
        ("labels: [a]", r"labels and raters are mappings"),
        ("labels:\n  a: b", r"has 'b' where spellings are expected"),
        ("raters:\n  no: nein", r"False: 'nein' is not text; put both in quotation marks"),
        ("raters: {a: b, b: c}", r"'a' becomes 'b', which becomes 'c'; give the last name"),
        ("raters: {a: b", r"labels\.yaml is not YAML"),
        ("raters: {\udce4: b}", r"is not UTF-8"),
        (None, r"There is no file .*labels\.yaml; pass the file of spellings"),
    ],
)
def test_a_file_of_another_form_is_refused(text, message, tmp_path):
    path = tmp_path / "labels.yaml"
    if text is not None:
        path.write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ValueError, match=message):
        read_aliases(path)
