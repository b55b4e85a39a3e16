"""Tables of raters as numbers: what each column becomes, and which tables are refused."""

import numpy as np
import pytest

from annot_hf.data.rater_facts import describe_columns, encode_raters, read_rater_table

TABLE = """annotator,age,country,same,id
ann,20,de,1,a
bob,60,de,1,b
cy,40,fr,1,c
dee,,fr,1,d
eve,30,it,1,e
new,80,de,2,f
"""
KNOWN = ["ann", "bob", "cy", "dee"]


@pytest.fixture
def table(tmp_path):
    (tmp_path / "raters.csv").write_text(TABLE)
    return read_rater_table(tmp_path / "raters.csv")


def test_numbers_are_standardised_and_shared_words_are_yes_or_no(table):
    columns = describe_columns(table, [*KNOWN, "not there"])
    std = np.std([20, 60, 40])
    assert columns == [
        {"name": "age", "mean": 40.0, "std": pytest.approx(std)},
        {"name": "country", "words": ["de", "fr"]},
    ]
    found = encode_raters(table, columns, ["dee", "ann", "new", "not there", "eve"])
    # a missing number is the mean, an unknown word none, and so is all of a rater who is not there
    expected = [[0, 0, 1], [-20 / std, 1, 0], [40 / std, 1, 0], [0, 0, 0], [-10 / std, 0, 0]]
    np.testing.assert_allclose(found, expected)


def test_a_table_that_does_not_fit_is_one_sentence(table):
    columns = describe_columns(table, KNOWN)
    with pytest.raises(ValueError, match="has no column 'age', which the model reads; add it"):
        encode_raters(table.drop(columns="age"), columns, KNOWN)
    with pytest.raises(ValueError, match="has 'old' as age of 'bob', and the model reads numbers there"):
        encode_raters(table.replace({"60": "old"}), columns, KNOWN)
    with pytest.raises(ValueError, match=r"has 1960 as age of 'bob', where .* have 40 ± 16; give it in the same unit"):
        encode_raters(table.replace({"60": "1960"}), columns, KNOWN, farthest=10)
    with pytest.raises(ValueError, match="None of the 1 raters is in the table"):
        describe_columns(table, ["zoe"])
    with pytest.raises(ValueError, match="No column of same, id tells the raters of the table apart"):
        describe_columns(table[["same", "id"]], KNOWN)


def test_columns_and_words_that_tell_nothing_are_named(table, caplog):
    columns = describe_columns(table, KNOWN)
    assert caplog.messages == ["Left out of the table of raters, because they do not tell raters apart: same, id."]
    encode_raters(table, columns, ["ann", "eve", "not there"])
    assert caplog.messages[1:] == ["1 of 3 raters have a country that counts as none, such as 'it'; known are de, fr."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rater,age\nann,20\n", "the header is 'rater,age'; it must have the columns annotator"),
        ("annotator\nann\n", "has the column annotator alone"),
        ("annotator,age\nann,20\n,30\n", "row 3 has no annotator"),
        ("annotator,age\nann,20\nann,30\n", "row 3 lists 'ann' a second time"),
    ],
)
def test_a_file_that_is_no_table_of_raters_names_the_row(tmp_path, text, message):
    (tmp_path / "raters.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_rater_table(tmp_path / "raters.csv")


def test_a_column_of_the_name_of_the_rows_is_said(tmp_path):
    (tmp_path / "raters.csv").write_text(TABLE.replace("country", "row"))
    with pytest.raises(ValueError, match="has a column row, a name that is taken; rename it"):
        read_rater_table(tmp_path / "raters.csv")


def test_a_word_among_numbers_is_not_passed_over(tmp_path):
    (tmp_path / "raters.csv").write_text(TABLE.replace("cy,40", "cy,unknown"))
    with pytest.raises(ValueError, match="has 'unknown' as age of 'cy' among numbers; correct it, or leave it empty"):
        describe_columns(read_rater_table(tmp_path / "raters.csv"), KNOWN)
