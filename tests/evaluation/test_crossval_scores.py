from dataclasses import replace

import audmetric
import numpy as np
import pytest
from markdown_it import MarkdownIt
from scipy.stats import pearsonr, spearmanr

from annot_hf.data.folds import count_folds, fold_marginals, make_folds
from annot_hf.data.predictions import pool_predictions
from annot_hf.evaluation.evaluate import evaluate
from annot_hf.evaluation.resampling import Resamples
from annot_hf.evaluation.scoring import measure_entropy_ranks
from annot_hf.models import measures
from annot_hf.report.figures import PANELS, plot_systems
from annot_hf.report.pages import save_figure, write_tables
from annot_hf.report.systems import crossval_tables, fold_notes, systems_tables


def part_of(predictions, rows):
    """The predictions of some items, in any order."""
    place = {row: new for new, row in enumerate(rows)}
    answers = [index for index, item in enumerate(predictions.rater_items) if item in place]
    return replace(
        predictions,
        items=predictions.items[rows],
        probs=predictions.probs[rows],
        rater_items=[place[item] for item in predictions.rater_items[answers]],
        rater_names=predictions.rater_names[answers],
        rater_values=predictions.rater_values[answers],
        rater_fallback=predictions.rater_fallback[answers],
        scale_means=None,
        scale_deviations=None,
    )


def repeats(runs, targets, folds, groups, *, unit, **options):
    speakers = None if unit == "item" else dict(zip(targets.items, groups, strict=True))
    parts = ("items", "categories", "ranks")
    return evaluate(runs, targets, speakers=speakers, folds=folds, unit=unit, parts=parts, **options)


@pytest.fixture(scope="module")
def crossed(emotion_run):
    """Two systems, three repeats of four folds over twelve speakers; predictions come fold by fold, shuffled."""
    _, targets, predictions, speakers = emotion_run
    groups = np.array([speakers[item] for item in targets.items], dtype=object)
    folds = list(make_folds(groups, folds=4, repeats=3))
    rng = np.random.default_rng(0)
    runs = {"sharp": [], "flat": []}
    for repeat in range(3):
        for name, share in (("sharp", 0.1 * repeat), ("flat", 0.4 + 0.1 * repeat)):
            probs = (1 - share) * predictions.probs + share / predictions.probs.shape[1]
            parts = [
                part_of(replace(predictions, probs=probs), rng.permutation(np.flatnonzero(fold.parts == "test")))
                for fold in folds[4 * repeat : 4 * repeat + 4]
            ]
            runs[name].append(pool_predictions(parts))
    return runs, targets, folds, groups, repeats(runs, targets, folds, groups, unit="speaker", n_resamples=200)


def in_order(run, targets):
    rows = {item: row for row, item in enumerate(run.items)}
    return run.probs[[rows[item] for item in targets.items]]


def test_scores_of_pooled_folds_against_libraries(crossed):
    runs, targets, _, _, found = crossed
    labels, q = list(range(len(targets.support))), targets.probs
    for name, several in runs.items():
        pooled = [in_order(run, targets) for run in several]
        expected = {
            "accuracy": [audmetric.accuracy(q.argmax(1), p.argmax(1)) for p in pooled],
            "macro_f1": [
                audmetric.unweighted_average_fscore(q.argmax(1), p.argmax(1), labels=labels, zero_division=0)
                for p in pooled
            ],
            "jsd": [measures.jsd(p, q).mean() for p in pooled],
            "entropy_correlation": [pearsonr(measures.entropy(p), measures.entropy(q)).statistic for p in pooled],
            "entropy_rank_correlation": [
                spearmanr(measures.entropy(p).round(12), measures.entropy(q).round(12)).statistic for p in pooled
            ],
        }
        for measure, values in expected.items():
            record = found.at(measure, name)
            assert record["runs"] == pytest.approx(values, abs=1e-6), measure
            assert record["value"] == pytest.approx(np.mean(values), abs=1e-6)
            assert record["deviation"] == pytest.approx(np.std(values, ddof=1), abs=1e-6)
            assert record["low"] < record["value"] < record["high"]
    flat, sharp = (found.at("jsd", name) for name in ("flat", "sharp"))
    difference = found.difference("jsd", "flat", "sharp")
    assert difference["value"] == pytest.approx(flat["value"] - sharp["value"])
    widths = [one["high"] - one["low"] for one in (difference, flat, sharp)]
    assert widths[0] < 0.8 * np.hypot(*widths[1:])  # paired: narrower than of two independent samples


def test_the_marginal_knows_its_own_training_part_only(crossed):
    _, targets, folds, _, found = crossed
    marginals = fold_marginals(targets, folds)
    for fold in folds:
        expected = targets.probs[fold.parts == "train"].mean(0)
        assert marginals[fold.repeat][fold.parts == "test"] == pytest.approx(np.tile(expected, (60, 1)))
    expected = [measures.jsd(marginal, targets.probs).mean() for marginal in marginals]
    assert found.at("jsd", "marginal")["runs"] == pytest.approx(expected)
    assert found.at("gap_closed", "marginal")["value"] == pytest.approx(0)
    assert found.at("entropy_correlation", "marginal") is None  # it differs between folds only


def test_groups_are_resampled_whole_and_alike_in_all_repeats(crossed):
    runs, targets, folds, groups, found = crossed
    same = {"one": runs["sharp"][:1] * 3}
    once = repeats(same, targets, folds, groups, unit="speaker", n_resamples=200).at("jsd", "one")
    drawn = np.random.default_rng(1).integers(12, size=(20_000, 12))
    values = measures.jsd(in_order(same["one"][0], targets), targets.probs)
    means = np.array([values[groups == group].mean() for group in np.unique(groups)])[drawn].mean(1)
    assert [once["low"], once["high"]] == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.002)
    assert once["deviation"] == 0
    by_item = repeats(runs, targets, folds, groups, unit="item", n_resamples=50)
    assert "items count as independent" in " ".join(by_item.notes)


def test_pooled_predictions_keep_what_belongs_to_an_item(emotion_run):
    _, _, predictions, _ = emotion_run
    rows = np.random.default_rng(0).permutation(len(predictions))
    pooled = pool_predictions([part_of(predictions, rows[:100]), part_of(predictions, rows[100:])])
    assert pooled.items.tolist() == predictions.items[rows].tolist() and np.array_equal(
        pooled.probs, predictions.probs[rows]
    )
    answers = {
        (run.items[item], name): (fallback, *value)
        for run in (pooled, predictions)
        for item, name, fallback, value in zip(
            run.rater_items, run.rater_names, run.rater_fallback, run.rater_values, strict=True
        )
    }
    assert len(answers) == len(pooled.rater_items) == len(predictions.rater_items)
    with pytest.raises(ValueError, match="a second time"):
        pool_predictions([predictions, predictions])
    with pytest.raises(ValueError, match="cannot be pooled"):
        pool_predictions([predictions, replace(predictions, support=tuple("abcdef"))])
    with pytest.raises(ValueError, match="no predictions to pool"):
        pool_predictions([])


def test_what_training_parts_lack_is_counted(emotion_run, crossed):
    _, targets, predictions, _ = emotion_run
    groups = np.repeat([f"g{number}" for number in range(6)], 40).astype(object)
    probs = targets.probs.copy()
    probs += 0.01
    probs[:, 2] = 0
    probs[:40, 2] = 0.1  # "fear" is heard in the first group only, and wins no item of it
    probs[:40, 0] += 1
    probs /= probs.sum(1, keepdims=True)
    ratings = replace(
        targets.ratings, annotator=np.where(targets.ratings.item < 40, 0, 1 + targets.ratings.annotator % 5)
    )
    spoilt = replace(targets, probs=probs, ratings=ratings)
    folds = list(make_folds(groups, folds=6, repeats=2))
    told = count_folds(spoilt, folds, groups)
    without = [fold for fold in told["folds"] if fold["labels_without_votes"]]
    assert all(fold["labels_without_votes"] == ["fear"] for fold in without)
    held = [fold for fold in folds if (fold.parts[:40] != "train").all()]
    assert len(without) == len(held) and 2 <= len(held) <= 4  # tested in each repeat once, sometimes set aside
    assert all("fear" in fold["labels_that_win_no_item"] for fold in told["folds"])
    unseen = [fold for fold in told["folds"] if fold["raters_unseen"]]
    assert [fold["answers_of_raters_unseen"] for fold in unseen] == [40 * 7] * 2
    assert told["partitions"] == 1  # six groups in six folds: there is one division
    runs = {"one": [predictions, predictions]}
    page = " ".join(fold_notes(repeats(runs, spoilt, folds, groups, unit="group", n_resamples=20)))
    for text in (
        f"Label fear has no vote in {len(without)} of 12 training parts; macro-F1 keeps it.",
        "Label fear is the most frequent of no item in 12 of 12",
        "560 answers to test items",
        "divide the items in only 1 different ways",
        f"one: {2 * predictions.rater_fallback.sum()} of {2 * len(predictions.rater_items):,} predicted rater answers",
    ):
        assert text in page
    assert np.isfinite(list(repeats(runs, spoilt, folds, groups, unit="group").at("macro_f1", "one")["runs"])).all()


def test_ranks_and_speakers_of_pooled_folds_equal_a_loop(crossed):
    runs, targets, _, groups, found = crossed
    truth = targets.probs.argmax(1)
    for name, several in runs.items():
        expected = {"accuracy_2_best": [], "uar_2_best": [], "pauar75_2_best": []}
        for run in several:
            best = np.argsort(-in_order(run, targets), axis=1, kind="stable")[:, :2]
            hit = (best == truth[:, None]).any(axis=1)

            def recall(rows, hit=hit):
                return np.mean([hit[rows & (truth == label)].mean() for label in set(truth[rows])])

            expected["accuracy_2_best"].append(hit.mean())
            expected["uar_2_best"].append(recall(np.full(len(truth), True)))
            above = [recall(groups == speaker) > 0.75 + 1e-9 for speaker in set(groups)]
            expected["pauar75_2_best"].append(100 * np.mean(above))
        for measure, values in expected.items():
            assert found.at(measure, name)["runs"] == pytest.approx(values), measure
            assert found.at(measure, name)["value"] == pytest.approx(np.mean(values))


def test_page_and_figure_say_everything(crossed, tmp_path):
    found = crossed[-1]
    tables = crossval_tables(found)
    heads = [head for table in tables for head in table.columns]
    assert {"Macro-F1\u00a0↑", "Entropies, r\u00a0↑", "KLD (nats)\u00a0↓"} <= set(heads)
    assert {"UAR, 2-best\u00a0↑", "paUAR-75 (%)\u00a0↑", "paUAR-50, 3-best (%)\u00a0↑"} <= set(heads)
    for unit in ("item", "conversation"):
        other = repeats(*crossed[:4], unit=unit, n_resamples=0)
        assert not other.groups and not any(name.startswith("pauar") for name in other)
        assert "Speakers served well" not in [table.title for table in crossval_tables(other)]
    rows = [[cell.main for cell in row] for table in tables for row in table.rows]
    assert ["test", "60", "3"] in rows and "Labels: Difference to sharp, paired" in [table.title for table in tables]
    assert {row[0] for row in rows} == {"sharp", "flat", "marginal", "train", "validation", "test"}
    figure = plot_systems(found)
    assert len(figure.axes) == len(PANELS)
    drawn = [line.get_xdata()[0] for line in figure.axes[3].lines if line.get_marker() == "o"]
    assert drawn == [found.at("jsd", name)["value"] for name in ("sharp", "flat")]
    assert save_figure(lambda: plot_systems(found), tmp_path / "plot.png").stat().st_size > 10_000


def test_a_system_called_marginal(crossed):
    runs, targets, folds, groups, _ = crossed
    with pytest.raises(ValueError, match="name of a baseline"):
        repeats({"marginal": runs["flat"]}, targets, folds, groups, unit="speaker")


def test_rank_correlation_ignores_rounding_and_bends():
    rng = np.random.default_rng(0)
    q = rng.dirichlet(np.ones(3), 50)
    bent = {"bent": (q**3) / (q**3).sum(1, keepdims=True)}
    found = measure_entropy_ranks(bent | {"flat": np.full_like(q, 1 / 3)}, q, Resamples(n=10, seed=0))
    assert found.draws["flat"] == pytest.approx(0)
    expected = spearmanr(measures.entropy(bent["bent"]), measures.entropy(q)).statistic
    assert found.draws["bent"][0] == pytest.approx(expected)
    votes = np.array([[0.6, 0.3, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6], [1, 0, 0]])  # three are equal but for rounding
    assert measure_entropy_ranks({"one": votes}, votes, Resamples(n=0, seed=0)).draws["one"][0] == pytest.approx(1)
    turned = votes[[1, 2, 0, 3]]
    assert measure_entropy_ranks({"one": turned}, votes, Resamples(n=0, seed=0)).draws["one"][0] == pytest.approx(1)


def test_folds_that_are_not_tested_are_not_scored(crossed):
    runs, targets, folds, groups, _ = crossed
    first = folds[:2]
    tested = np.any([fold.parts == "test" for fold in first], axis=0)
    some = {
        name: [part_of(several[0], np.flatnonzero(np.isin(several[0].items, targets.items[tested])))]
        for name, several in runs.items()
    }
    found = repeats(some, targets, first, groups, unit="speaker", n_resamples=50)
    assert found.counts["n_evaluated"] == tested.sum()
    assert found.counts["items not tested"] == (~tested).sum() > 0
    p = {item: row for item, row in zip(some["sharp"][0].items, some["sharp"][0].probs, strict=True)}
    expected = measures.jsd(np.stack([p[item] for item in targets.items[tested]]), targets.probs[tested]).mean()
    assert found.at("jsd", "sharp")["value"] == pytest.approx(expected)


HOSTILE = "<script>x</script> | `a` [b](javascript:1)"


def test_names_in_pages_stay_text(crossed, tmp_path):
    runs, targets, folds, groups, _ = crossed
    hostile = {HOSTILE: runs["sharp"], f"{HOSTILE}2": runs["flat"]}
    found = repeats(hostile, targets, folds, groups, unit="speaker", n_resamples=10)
    notes = [*fold_notes(found), HOSTILE]
    tables = crossval_tables(found) + systems_tables(found)
    page = write_tables(
        tmp_path / "page.md", title=HOSTILE, summary=HOSTILE, tables=tables, notes=notes, details={HOSTILE: HOSTILE}
    ).read_text(encoding="utf-8")
    assert page.count("&lt;script&gt;") > 10
    html = MarkdownIt("commonmark").enable("table").render(page)
    assert html.count("<table>") == len(tables) + 1
    assert not any(f"<{tag}" in html for tag in ("script", "code", "a ", "em"))


def test_disagreement_is_pooled(emotion_run):
    _, _, predictions, _ = emotion_run
    said = np.linspace(0, 1, 240)
    halves = [
        replace(part_of(predictions, rows), disagreement=said[rows], disagreement_kind="entropy")
        for rows in (np.arange(100), np.arange(100, 240))
    ]
    pooled = pool_predictions(halves)
    assert pooled.disagreement.tolist() == said.tolist() and pooled.disagreement_kind == "entropy"
    with pytest.raises(ValueError, match="cannot be pooled"):
        pool_predictions([halves[0], replace(halves[1], disagreement_kind="variance")])
