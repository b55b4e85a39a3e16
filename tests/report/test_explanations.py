import numpy as np
import pytest

from annot_hf.report.studies import Explanation, attention_spread, word_weights, write_explanations

TEXT = "Don't go <b>, you!"
#        [CLS]   Don     '       t       go      <       b        >        ,         you       !        [SEP]
OFFSETS = [(0, 0), (0, 3), (3, 4), (4, 5), (6, 8), (9, 10), (10, 11), (11, 12), (12, 13), (14, 17), (17, 18), (0, 0)]


def explanation(attention, **options):
    attention = np.asarray(attention, dtype=float)
    probs = np.eye(2)[np.arange(len(attention)) % 2]
    return Explanation("a", TEXT, np.array(OFFSETS), attention, probs, **options)


def test_tokens_are_summed_to_words_and_nothing_is_lost():
    attention = np.random.default_rng(0).dirichlet(np.ones(12), size=3)
    spans, weights, rest = word_weights(TEXT, np.array(OFFSETS), attention)
    assert [TEXT[start:end] for start, end in spans] == ["Don't", "go", "<", "b", ">,", "you", "!"]
    np.testing.assert_allclose(weights[:, 0], attention[:, 1:4].sum(1))
    np.testing.assert_allclose(weights[:, 4], attention[:, 7:9].sum(1))
    np.testing.assert_allclose(rest, attention[:, [0, -1]].sum(1))
    np.testing.assert_allclose(weights.sum(1) + rest, 1)


def test_a_token_that_begins_with_a_space_belongs_to_its_word():
    offsets = np.array([(0, 3), (3, 7), (7, 8)])  # "one", " two", " "
    _, weights, rest = word_weights("one two ", offsets, np.array([[0.2, 0.5, 0.3]]))
    np.testing.assert_allclose(weights, [[0.2, 0.5]])
    np.testing.assert_allclose(rest, [0.3])


def test_a_text_without_a_word_has_no_weights():
    spans, weights, rest = word_weights("  ", np.array([(0, 0), (0, 2)]), np.array([[0.4, 0.6]]))
    assert spans == [] and weights.shape == (1, 0) and rest.tolist() == [1.0]


def test_spread_is_the_mean_distance_between_members():
    apart = np.zeros((2, 12))
    apart[0, 4], apart[1, 9] = 0.5, 0.5
    apart[:, 0] = 0.5  # on [CLS] both, which is no word
    assert attention_spread([explanation(apart)]) == pytest.approx(1)
    alike = np.repeat(apart[:1], 2, 0)
    assert attention_spread([explanation(apart), explanation(alike)]) == pytest.approx(0.5)
    assert np.isnan(attention_spread([explanation(apart[:1])]))


def test_the_page_holds_members_words_and_votes(tmp_path):
    attention = np.full((2, 12), 1 / 12)
    found = write_explanations(
        [explanation(attention, raters=np.array([0.25, 0.75]))],
        ["<angry>", "happy"],
        tmp_path / "new" / "e.html",
        title="T",
    )
    page = found.read_text(encoding="utf-8")
    assert "&lt;angry&gt;" in page and "<angry>" not in page and "<b>" not in page
    assert page.count(">Don&#39;t</span>") == 2 and "25.0 %" in page
    assert "raters 0.75" in page and "not on words 17 %" in page
    assert "Between two members, 0.0 % of the attention" in page
    assert "did not read" not in page
    cut = Explanation("a", TEXT, np.array(OFFSETS[:5] + OFFSETS[-1:]), np.full((1, 6), 1 / 6), np.eye(2)[:1])
    text = write_explanations([cut], ["a", "b"], tmp_path / "c.html", title="T").read_text()
    assert "5 further words exceed" in text and "did not read &#39;&lt;b&gt;, you!&#39;" in text
    plain = write_explanations([explanation(attention)], ["a", "b"], tmp_path / "e.html", title="T").read_text()
    assert "raters" not in plain.split("</style>")[1]
