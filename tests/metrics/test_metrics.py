"""One harness for every folder of metrics/: it loads anywhere, agrees with the package, and refuses bad input."""

import functools
import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import evaluate
import numpy as np
import pandas as pd
import pytest
import scipy.stats
import sklearn.metrics
import torch
import yaml
from hub_stub import serve
from scipy.spatial.distance import jensenshannon

from annot_hf.data.questions import Question
from annot_hf.data.votes import VoteTable
from annot_hf.evaluation.agreement import agreement
from annot_hf.models import measures

ROOT = pathlib.Path(__file__).parents[2]
FOLDERS = sorted(path.parent for path in ROOT.glob("metrics/*/README.md"))


def example(folder: pathlib.Path) -> dict:
    """Two items or pairs, as the metric takes them."""
    if folder.name == "ccc":
        return {"predictions": [0.1, 0.4, 0.9], "references": [0.2, 0.3, 1.0]}
    if folder.name == "krippendorff_alpha":
        return {"votes": [[1, 1, None], [2, 2, 2], [1, 2, None]]}
    rows = {"predictions": [[0.6, 0.2, 0.1, 0.1], [0.5, 0.5, 0, 0]], "references": [[1, 0, 0, 0], [0.5, 0.5, 0, 0]]}
    return rows | ({"speakers": ["s1", "s2"]} if folder.name == "pauar" else {})


def macro_uar(given: dict, n: int = 1) -> float:
    """n-best UAR by a loop."""
    p, true = np.array(given["predictions"]), np.array(given["references"]).argmax(1)
    best = np.argsort(-p, axis=1, kind="stable")[:, :n]
    return np.mean([np.mean([k in row for row in best[true == k]]) for k in sorted(set(true))])


def overlap(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    return np.minimum(p, q).sum(0), (p + q).sum(0)


def calibration(p: np.ndarray, q: np.ndarray) -> float:
    """Class-wise calibration error by loops over labels and bins."""
    errors = []
    for k in range(p.shape[1]):
        bins = np.minimum((p[:, k] * 10 + 1e-9).astype(int), 9)
        errors.append(sum(abs((q[bins == b, k] - p[bins == b, k]).sum()) for b in range(10)) / len(p))
    return np.mean(errors)


# Oracles: libraries, or the definition written out, of predictions p and references q.
ORACLES = {
    "kld": lambda p, q: scipy.stats.entropy(q, p, axis=1).mean(),
    "cross_entropy": lambda p, q: (scipy.stats.entropy(q, axis=1) + scipy.stats.entropy(q, p, axis=1)).mean(),
    "bhattacharyya": lambda p, q: np.sqrt(p * q).sum(1).mean(),
    "emd": lambda p, q: np.mean(
        [
            scipy.stats.wasserstein_distance(range(p.shape[1]), range(p.shape[1]), *pair)
            for pair in zip(p, q, strict=True)
        ]
    ),
    "soft_accuracy": lambda p, q: np.minimum(p, q).sum(1).mean(),
    "soft_f1": lambda p, q: np.mean(2 * overlap(p, q)[0] / overlap(p, q)[1]),
    "entropy_correlation": lambda p, q: np.corrcoef(scipy.stats.entropy(p, axis=1), scipy.stats.entropy(q, axis=1))[
        0, 1
    ],
    "uar": lambda p, q: sklearn.metrics.balanced_accuracy_score(q.argmax(1), p.argmax(1)),
    "nbest_uar": lambda p, q: macro_uar({"predictions": p, "references": q}, 2),
    "expected_calibration_error": calibration,
    "lewidi_cross_entropy": lambda p, q: -(q * np.log(np.clip(p, 1e-12, 1 - 1e-12) + 1e-9)).sum(1).mean(),
    "lewidi_manhattan": lambda p, q: abs(p - q).sum(1).mean(),
    "lewidi_wasserstein": lambda p, q: abs(np.cumsum(p - q, axis=1)).sum(1).mean(),
    "lewidi_rater_error": lambda p, q: (p != q).mean(),
    "jsd": lambda p, q: (jensenshannon(p, q, axis=1) ** 2).mean(),
    "tvd": lambda p, q: 0.5 * abs(p - q).sum(1).mean(),
}


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request):
    return request.param


def test_there_is_a_folder_for_every_metric():
    assert {folder.name for folder in FOLDERS} == {*ORACLES, "ccc", "pauar", "krippendorff_alpha"}
    assert {path.name for path in (ROOT / "metrics").iterdir() if path.is_dir()} == {f.name for f in FOLDERS}


def test_the_folder_is_a_space_and_the_formula_stands_once(folder):
    front = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert front["sdk"] == "gradio" and front["app_file"] == "app.py" and front["tags"] == ["evaluate", "metric"]
    assert front["python_version"] == "3.11"
    assert len(front["title"]) > 2 and len(front["description"]) > 20
    links = {"app.py": "../app.py"}
    if folder.name != "krippendorff_alpha":
        links |= {"measures.py": "../../annot_hf/models/measures.py"}
    if folder.name not in ("ccc", "krippendorff_alpha"):
        links |= {"distribution_metric.py": "../distribution_metric.py"}
    for name, target in links.items():
        assert os.readlink(folder / name) == target and (folder / name).is_file()
    assert "evaluate" in (folder / "requirements.txt").read_text()


def test_the_result_has_a_value_and_its_unit(folder):
    result = evaluate.load(str(folder)).compute(**example(folder))
    assert set(result) == {folder.name, "unit"} and isinstance(result["unit"], str)
    json.dumps(result)


@pytest.mark.parametrize("name", ORACLES)
def test_it_equals_an_oracle(name):
    p, q = np.random.default_rng(1).dirichlet(np.ones(4), (2, 50))
    metric = evaluate.load(str(ROOT / "metrics" / name))
    found = metric.compute(predictions=p, references=q, per_item=True)
    assert found[name] == pytest.approx(ORACLES[name](p, q), abs=1e-9)
    assert "per_item" not in found or np.mean(found["per_item"]) == pytest.approx(found[name])


def test_options_of_metrics():
    p, q = np.random.default_rng(2).dirichlet(np.ones(4), (2, 60))
    rows = {"predictions": p, "references": q}
    load = {name: evaluate.load(str(ROOT / "metrics" / name)).compute for name in ORACLES | {"pauar": None}}
    assert load["soft_f1"](**rows, average="micro")["soft_f1"] == pytest.approx(ORACLES["soft_accuracy"](p, q))
    assert load["nbest_uar"](**rows, n=3)["nbest_uar"] == pytest.approx(macro_uar(rows, 3))
    top = load["expected_calibration_error"](**rows, of="top")["expected_calibration_error"]
    best = p.argmax(1)[:, None]
    assert top == pytest.approx(calibration(np.take_along_axis(p, best, 1), np.take_along_axis(q, best, 1)))
    speakers = [f"s{n % 6}" for n in range(60)]
    each = [macro_uar({"predictions": p[n::6], "references": q[n::6]}) for n in range(6)]
    for level in (25, 50):
        found = load["pauar"](**rows, speakers=speakers, level=level)
        assert found["pauar"] == pytest.approx(100 * np.mean(np.array(each) > level / 100 + 1e-9))
    answers = {"predictions": [[1, 3], [6.0]], "references": [[2, 3], [1]]}
    assert load["lewidi_rater_error"](**answers)["lewidi_rater_error"] == pytest.approx((0.5 + 1) / 2)
    assert load["lewidi_rater_error"](**answers, scale_range=5)["lewidi_rater_error"] == pytest.approx((0.1 + 1) / 2)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("soft_f1", {"average": "weighted"}, "average is 'weighted'; use macro or micro"),
        ("expected_calibration_error", {"of": "all"}, "of is 'all'; use labels or top"),
        ("nbest_uar", {"n": 2}, "n is 2, and there are 2 labels"),
        ("kld", {"base": -1}, "base is -1"),
        ("lewidi_rater_error", {"scale_range": 0}, "scale_range is 0; give the highest minus the lowest"),
    ],
)
def test_options_out_of_range_are_refused(name, options, words):
    metric = evaluate.load(str(ROOT / "metrics" / name), experiment_id=words)
    with pytest.raises(ValueError, match=words):
        metric.compute(predictions=[[0.5, 0.5]], references=[[0.5, 0.5]], **options)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval", "ratio"])
def test_alpha_equals_ours(level):
    votes = np.random.default_rng(3).integers(1, 5, (30, 4)).astype(float)
    votes[np.random.default_rng(4).random((30, 4)) < 0.3] = np.nan
    item, rater = np.nonzero(~np.isnan(votes))
    table = VoteTable.from_columns(
        Question.scale("q", 1, 4), item=item.astype(str), annotator=rater.astype(str), value=votes[item, rater]
    )
    found = evaluate.load(str(ROOT / "metrics" / "krippendorff_alpha"), experiment_id=level).compute(
        votes=[[None if np.isnan(vote) else vote for vote in row] for row in votes], level=level
    )
    expected = agreement(table, "q", level=level).alpha.value
    assert found["krippendorff_alpha"] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("votes", "options", "words"),
    [
        ([[1, 1], [1, None]], {}, "no two different values"),
        ([[1, 2]], {"level": "metric"}, "level is 'metric'; use one of nominal"),
        ([[1, 2], [float("inf"), 1]], {}, "row 1 holds infinity"),
        ([[1, 2], [-1, 1]], {"level": "ratio"}, "row 1 holds a number below 0"),
    ],
)
def test_alpha_that_cannot_be(votes, options, words):
    metric = evaluate.load(str(ROOT / "metrics" / "krippendorff_alpha"), experiment_id=words)
    with pytest.raises(ValueError, match=words):
        metric.compute(votes=votes, **options)


def test_answers_of_raters_are_checked():
    load = functools.partial(evaluate.load, str(ROOT / "metrics" / "lewidi_rater_error"))
    with pytest.raises(ValueError, match="Row 1 has 1 predictions and 2 references"):
        load(experiment_id="a").compute(predictions=[[1], [1]], references=[[1], [1, 0]])
    with pytest.raises(ValueError, match="references: row 0 is "):
        load(experiment_id="b").compute(predictions=[[1]], references=[[float("nan")]])
    with pytest.raises(ValueError, match="Row 0 has answers 18 apart, more than scale_range 5"):
        load(experiment_id="c").compute(predictions=[[20]], references=[[2]], scale_range=5)


def test_a_certain_error_is_infinite_but_for_lewidi():
    given = {"predictions": [[1.0, 0.0]], "references": [[0.0, 1.0]]}
    found = {
        name: evaluate.load(str(ROOT / "metrics" / name)).compute(**given)[name]
        for name in ("kld", "cross_entropy", "lewidi_cross_entropy")
    }
    assert found["kld"] == found["cross_entropy"] == np.inf
    assert found["lewidi_cross_entropy"] == pytest.approx(-np.log(1e-9 + 1e-12))


def test_batches_give_what_one_call_gives(folder):
    given = example(folder)
    metric = evaluate.load(str(folder / f"{folder.name}.py"))
    for row in zip(*given.values(), strict=True):
        metric.add_batch(**{name: [value] for name, value in zip(given, row, strict=True)})
    assert metric.compute() == metric.compute(**given)


def test_the_readme_example_is_true(folder):
    blocks = (folder / "README.md").read_text().split("```python")[1].split("```")[0]
    code = blocks.replace(f"annot-hf/{folder.name}", str(folder))
    lines = [line for line in code.splitlines() if line]
    scope: dict = {}
    for i, line in enumerate(lines):
        if not line.startswith("#"):
            if i + 1 < len(lines) and lines[i + 1].startswith("#"):
                claimed = lines[i + 1][2:].split(f"'{folder.name}': ")[1]
                value = eval(line, scope)[folder.name]
                assert str(value).startswith(claimed.split(",")[0].rstrip(".}"))
            else:
                exec(line, scope)


def test_jsd_in_nats_bits_and_against_scipy():
    jsd = evaluate.load(str(ROOT / "metrics" / "jsd"))
    given = {"predictions": [[0.6, 0.2, 0.1, 0.1]], "references": [[1, 0, 0, 0]]}
    assert jsd.compute(**given) == {"jsd": pytest.approx(0.1639, abs=5e-5), "unit": "nats"}
    assert jsd.compute(**given, base=2) == {"jsd": pytest.approx(0.2365, abs=5e-5), "unit": "bits"}
    assert jsd.compute(**given, base=10)["unit"] == "base 10"
    rows = np.random.default_rng(0).dirichlet(np.ones(5), (2, 30))
    result = jsd.compute(predictions=rows[0], references=rows[1], per_item=True)
    np.testing.assert_allclose(result["per_item"], jensenshannon(*rows, axis=1) ** 2, atol=1e-12)
    assert result["jsd"] == pytest.approx(np.mean(result["per_item"]))
    rounded = jsd.compute(predictions=rows[0].astype(np.float32), references=rows[1].astype(np.float32))
    assert rounded["jsd"] == pytest.approx(result["jsd"], abs=1e-7)


@pytest.mark.parametrize("name", ["jsd", "tvd"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rows_of_half_precision_are_normalised(name, dtype):
    rows = torch.softmax(3 * torch.randn(400, 8, generator=torch.Generator().manual_seed(0)).double(), -1)
    half = rows.to(dtype).double()
    assert dtype == torch.float16 or 1e-3 < (half.sum(-1) - 1).abs().max() < 2**-8
    found = evaluate.load(str(ROOT / "metrics" / name)).compute(predictions=half.numpy(), references=rows.numpy())
    exact = getattr(measures, name)(half / half.sum(-1, keepdim=True), rows).mean().item()
    assert found[name] == pytest.approx(exact, abs=1e-12)
    wrong = rows.numpy() * 1.005
    with pytest.raises(ValueError, match="references: row 0 does not sum to 1"):
        evaluate.load(str(ROOT / "metrics" / name), experiment_id=str(dtype)).compute(
            predictions=half.numpy(), references=wrong
        )


def test_combined_metrics_share_options():
    both = evaluate.combine([evaluate.load(str(ROOT / "metrics" / name)) for name in ("jsd", "tvd")])
    result = both.compute(predictions=[[0.6, 0.2, 0.1, 0.1]], references=[[1, 0, 0, 0]], base=2)
    assert result["jsd"] == pytest.approx(0.2365, abs=5e-5) and result["tvd"] == pytest.approx(0.4)


@pytest.mark.parametrize("name", ["jsd", "tvd"])
@pytest.mark.parametrize(
    ("row", "words"),
    [
        ([0.6, 0.2], "row 0 does not sum to 1"),
        ([1.2, -0.2], "row 0 holds a negative probability"),
        ([float("nan"), 1.0], "row 0 holds a value that is not finite"),
        ([0.0, 0.0], "does not sum to 1"),
        ([0.2, 0.3, 0.5], "2 and 3 entries"),
    ],
)
def test_rows_that_are_no_distributions_are_refused(name, row, words):
    metric = evaluate.load(
        str(ROOT / "metrics" / name), experiment_id=words
    )  # a failed call keeps its cache file locked
    with pytest.raises(ValueError, match=words):
        metric.compute(predictions=[row], references=[[0.5, 0.5]])


def test_other_bad_input_is_refused():
    jsd, ccc = (evaluate.load(str(ROOT / "metrics" / name), experiment_id="bad") for name in ("jsd", "ccc"))
    with pytest.raises(ValueError, match=r"rows of \[2, 3\] probabilities"):
        jsd.compute(predictions=[[0.5, 0.5], [0.2, 0.3, 0.5]], references=[[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(ValueError, match="base is 1"):
        jsd.compute(predictions=[[0.5, 0.5]], references=[[0.5, 0.5]], base=1)
    with pytest.raises(ValueError, match="non-empty"):
        jsd.compute(predictions=[], references=[])
    with pytest.raises(ValueError, match="references: row 1 is not a finite number"):
        ccc.compute(predictions=[1.0, 2.0], references=[1.0, float("inf")])


@pytest.mark.parametrize("wide", [3, 1])
def test_other_labels_have_no_metric(folder, wide):
    if "predictions" not in example(folder) or folder.name in ("ccc", "lewidi_rater_error"):
        pytest.skip("takes no distributions")
    rows = {"predictions": [[1.0] + [0.0] * (wide - 1)] * 2, "references": [[0.5, 0.5] if wide > 1 else [1.0]] * 2}
    beside = {"speakers": ["s1", "s2"]} if folder.name == "pauar" else {}
    metric = evaluate.load(str(folder), experiment_id=f"wide{wide}")
    with pytest.raises(ValueError, match=r"Rows have (2 and 3|1) entries; give the same labels to both, two or more"):
        metric.compute(**rows, **beside)


def test_nothing_has_no_metric(folder):
    metric = evaluate.load(str(folder), experiment_id="nothing")
    with pytest.raises(ValueError, match="non-empty|no entries"):
        metric.compute(**{name: [] for name in example(folder)})


@pytest.mark.parametrize("folder", [one for one in FOLDERS if "predictions" in example(one)], ids=lambda one: one.name)
def test_frames_and_series_need_the_same_names(folder):
    metric = evaluate.load(str(folder), experiment_id="names")
    given = example(folder)
    predictions, references = (pd.DataFrame(given.pop(name)) for name in ("predictions", "references"))
    if folder.name == "ccc":
        predictions, references = predictions[0], references[0]
    predictions, references = (one.set_axis(list("zyx")[: len(one)]) for one in (predictions, references))
    named = {"predictions": predictions, "references": references}
    assert metric.compute(**named, **given) == metric.compute(**example(folder))
    with pytest.raises(ValueError, match="Names differ, 'z' in one where another has 'y'"):
        metric.compute(predictions=predictions.iloc[:2], references=references.iloc[[1, 0]], **given)


def test_app_answers_and_explains(folder):
    spec = importlib.util.spec_from_file_location(f"{folder.name}_app", folder / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    answer = app.compute(pd.DataFrame(app.EXAMPLE, columns=app.names))
    assert answer.startswith(f"{{'{folder.name}': ")
    bad = {"ccc": [[float("inf"), 1.0]], "lewidi_rater_error": [["[NaN]", "[1]"]], "pauar": [["[0.1]", "[0.5]", "s"]]}
    bad["krippendorff_alpha"] = [["[1, Infinity]"]]
    with pytest.raises(app.gr.Error, match="row 0"):
        app.compute(pd.DataFrame(bad.get(folder.name, [["[0.1, 0.2]", "[0.5, 0.5]"]]), columns=app.names))


BARE = """
import sys, json
from importlib.machinery import PathFinder
HIDDEN = ("annot_hf", "scipy", "torch", "transformers")
class Bare(PathFinder):  # as if these were not installed
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in HIDDEN else super().find_spec(name, path, target)
sys.meta_path = [Bare if finder is PathFinder else finder for finder in sys.meta_path if "ditable" not in repr(finder)]
import evaluate
print(json.dumps([evaluate.load(path).compute(**given) for path, given in json.loads(sys.argv[1])]))
assert not [name for name in HIDDEN if name in sys.modules], sys.modules
"""


def test_modules_load_from_a_space_with_only_evaluate_and_numpy(tmp_path):
    """upload_folder follows the link to measures.py, and evaluate.load fetches it as a sibling of the module."""
    upload = "\n".join(
        [
            "import sys",
            "from huggingface_hub import HfApi",
            "for folder in sys.argv[1:]:",
            "    name = 'me/' + folder.rsplit('/', 1)[1]",
            "    HfApi().create_repo(name, repo_type='space', space_sdk='gradio')",
            "    HfApi().upload_folder(repo_id=name, repo_type='space', folder_path=folder, ignore_patterns='__pycache__/*')",
        ]
    )
    spaces: dict = {}
    with serve(spaces) as address:
        online = {"HF_ENDPOINT": address, "HF_TOKEN": "x", "HF_HUB_OFFLINE": "0", "HF_EVALUATE_OFFLINE": "0"}
        environment = os.environ | online | {"HF_HOME": str(tmp_path), "HF_HUB_DISABLE_XET": "1"}

        def run(code, *arguments):
            command = [sys.executable, "-c", code, *arguments]
            done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60)
            assert done.returncode == 0, done.stderr
            return done.stdout

        run(upload, *map(str, FOLDERS))
        for folder in FOLDERS:
            assert spaces[f"spaces/me/{folder.name}"]["app.py"] == (folder / "app.py").read_bytes()
        places = [(str(folder), example(folder)) for folder in FOLDERS]
        places += [(f"me/{folder.name}", example(folder)) for folder in FOLDERS]
        results = json.loads(run(BARE, json.dumps(places)))
    assert results[: len(FOLDERS)] == results[len(FOLDERS) :]
    assert [list(result)[0] for result in results[: len(FOLDERS)]] == [folder.name for folder in FOLDERS]
