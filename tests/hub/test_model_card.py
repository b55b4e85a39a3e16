"""The card of a model: what it says is in the facts and the report, it is valid, and nobody's names or paths are in it."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import tiny
import yaml
from huggingface_hub import ModelCard, parse_eval_result_entries
from markdown_it import MarkdownIt

from annot_hf import build_report, predict, read_export, write_model_card
from annot_hf.data.files import CARD_MARK
from annot_hf.hub.cards import hub_trunks
from annot_hf.models.trunks import weights_digest
from annot_hf.report import pages
from annot_hf.training.checkpoints import FACTS, check_model_folder, save_model
from annot_hf.training.inputs import make_processor

HOSTILE = "a|b <script>alert(1)</script> `x` [y](http://z)\n---\nlicense: mit\n# *"


def dot(draw, path, *, dpi):
    """A figure that takes no time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pages.Figure(figsize=(0.1, 0.1)).savefig(path)
    return path


@pytest.fixture(scope="session")
def reports(checkpoints, corpus, features, tmp_path_factory):
    """Folders of the reports of both models on the three speakers."""
    home, exported, found = tmp_path_factory.mktemp("reports"), read_export(corpus), {}
    for name, folder in checkpoints.items():
        predictions, targets = predict(folder, corpus, split="test", features=features)
        marginal = predictions.meta.pop("marginal", None)
        about = exported.items.assign(speaker=[f"speaker {row % 3}" for row in range(len(exported.items))])
        options = {"title": "test", "items": about, "votes": exported.votes, "n_resamples": 20}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(pages, "save_figure", dot)
            found[name] = build_report(predictions, targets, home / name, marginal=marginal, **options).folder
    return found


def front_and_body(path):
    _, front, body = path.read_text(encoding="utf-8").split("---\n", 2)
    return yaml.safe_load(front), body


def snippet_of(path):
    return re.search(r"```python\n(.*?)```", path.read_text(), re.DOTALL)[1]


def html_of(body):
    return MarkdownIt("commonmark", {"html": True}).enable("table").render(body)


def test_a_card_says_what_the_facts_say_before_there_is_a_report(copied):
    path = write_model_card(copied["distribution"])
    front, body = front_and_body(path)
    assert front == {
        "library_name": "annot-hf",
        "license": "cc0-1.0",
        "pipeline_tag": "audio-classification",
        "tags": ["annot-hf", "label-distribution-learning", "human-label-variation", "speech"],
    }
    facts = json.loads((copied["distribution"] / FACTS).read_text())
    train = facts["splits"]["train"]
    sizes = [int(votes) for votes, items in train["items by votes"].items() for _ in range(items)]
    assert len(sizes) == train["items"] and sum(sizes) == train["votes"]["human"]
    spread = f"{min(sizes)}, {np.median(sizes):g}, {max(sizes)}"
    assert f"| train | {train['items']} | {sum(sizes)} | {spread} | {train['raters']} | nothing |" in body
    assert f"| jsd | {facts['validation']['jsd']:.3f} |" in body and "there is no test yet" in body
    assert CARD_MARK in body and (path.parent / "plots" / "votes.png").stat().st_size > 5000


def test_a_card_names_the_language_of_the_corpus(copied):
    path = copied["distribution"] / FACTS
    facts = json.loads(path.read_text())
    assert facts["origin"]["language"] == []
    path.write_text(json.dumps(facts | {"origin": facts["origin"] | {"language": ["de"]}}))
    front, _ = front_and_body(write_model_card(copied["distribution"]))
    assert front["language"] == ["de"]


@pytest.mark.parametrize("name", ["distribution", "annotator"])
def test_results_are_those_of_the_report_with_units_in_both_forms(name, copied, reports):
    folder = copied[name]
    path = write_model_card(folder, reports[name])
    front, body = front_and_body(path)
    found = json.loads((reports[name] / "report.json").read_text())
    items = found["evaluation"]["measures"]["items"]
    (model,) = front["model-index"]
    (result,) = model["results"]
    metrics = {one["type"]: one for one in result["metrics"]}
    assert result["dataset"] == {"name": "simulated", "type": "simulated", "split": "test"}
    assert metrics["jsd"]["name"] == "Jensen-Shannon divergence (nats)"
    assert metrics["gap_closed"]["name"].endswith("(%)")
    assert metrics["jsd"]["value"] == pytest.approx(items["jsd"]["systems"]["model"]["value"], abs=1e-6)
    assert all(one["name"].endswith(")") for one in metrics.values())
    assert ("accuracy" in metrics) == (name == "distribution") and "jsd_bits" not in metrics
    (file,) = (folder / ".eval_results").iterdir()
    entries = {one.task_id: one for one in parse_eval_result_entries(yaml.safe_load(file.read_text()))}
    assert len(entries) == len(metrics) and {one.dataset_id for one in entries.values()} == {"simulated"}
    asked = "emotion" if name == "distribution" else "activation_valence"
    entry, low = entries[f"{asked}_jsd"], items["jsd"]["systems"]["model"]["low"]
    assert (
        entry.value == metrics["jsd"]["value"] and f"nats), lower is better; 95 % interval {low:.4g} to" in entry.notes
    )
    # The card reads back as it was written, so that the library's own tools may edit it.
    assert str(ModelCard.load(path)) == path.read_text(encoding="utf-8")
    shown = re.findall(r'<img src="([^"]+)"', body)
    assert "plots/reliability.png" in shown and all((folder / one).is_file() for one in shown)
    assert all(words in body for words in ("## Ethics", "## Limits", "inherits: cc0-1.0.", "- Intervals are 95 %"))
    assert ("2408.11956" in body) == (name == "annotator") and "2211.13196" not in body
    if name == "distribution":
        titles = (
            "By how much the raters disagree",
            "By group of speakers",
            "Calibration",
            "From the best to the worst",
        )
        assert all(f"### {title}" in body for title in titles)
    else:
        assert "`config.json` names 4 raters by an id" in body


def test_no_path_machine_item_speaker_or_rater_is_named(copied, reports, corpus):
    exported = read_export(corpus)
    names = {*exported.items["item"], *exported.items["speaker"], *exported.votes.annotators, socket.gethostname()}
    for name, folder in copied.items():
        write_model_card(folder, reports[name])
        written = [folder / "README.md", *(folder / ".eval_results").iterdir()]
        for text in (path.read_text(encoding="utf-8") for path in written):
            assert not [one for one in names if re.search(rf"(?<!\w){re.escape(one)}(?!\w)", text)]
            assert str(corpus.parent) not in text and not re.search(r"/(tmp|home|root|work)/|runs/|output_dir", text)


@pytest.fixture
def text_model(copied, bert_folder, tmp_path):
    """The folder of an untrained model of texts with facts as after a training."""
    facts = json.loads((copied["distribution"] / FACTS).read_text())
    keep = {key: facts["recipe"][key] for key in ("model", "loss", "seed", "corpus")}
    facts |= {"recipe": keep | {"trunk": str(bert_folder)}, "trunk": "0" * 64, "marginal": [0.2, 0.3, 0.5]}

    def make(model=None, **changes):
        model = model or tiny.distribution("bert")
        save_model(model, make_processor(model.config.trunk_config, bert_folder), facts | changes, tmp_path / "text")
        return tmp_path / "text"

    return make


def test_the_snippets_run_without_the_package(copied, text_model, tmp_path):
    wave = np.sin(np.arange(16_000) / 20)
    soundfile.write(tmp_path / "clip.wav", wave, 16_000)
    code = ["import sys", "sys.modules['annot_hf'] = None"]
    folders = [copied["distribution"], copied["annotator"], text_model()]
    code += [snippet_of(write_model_card(one)).replace("FOLDER", str(one)) for one in folders]
    environment = os.environ | {"HF_HOME": str(tmp_path / "home")}
    command = [sys.executable, "-c", "\n".join(code)]
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    emotions, cells, read = map(yaml.safe_load, run.stdout.splitlines())
    assert list(emotions) == ["anger", "happy", "neutral", "sad"] and list(read) == ["angry", "happy", "sad"]
    assert len(cells) == 16 and all(sum(one.values()) == pytest.approx(1, abs=0.01) for one in (emotions, cells, read))


def test_hostile_names_are_text(text_model):
    question = {"name": HOSTILE, "labels": ["angry", HOSTILE + "2", "sad"], "prompt": HOSTILE}
    origin = dict.fromkeys(("version", "license", "citation", "homepage", "access"), HOSTILE)
    folder = text_model(tiny.distribution("bert", questions=[question]), corpus=HOSTILE, origin=origin)
    front, body = front_and_body(write_model_card(folder))
    assert front["license"] == "other" and re.fullmatch(r"[a-z0-9.-]+", front["license_name"])
    assert front["pipeline_tag"] == "text-classification" and "license: mit" in body
    page = html_of(body)
    assert "<script" not in page and "<a href" in page and 'href="http://z"' not in page
    rows = re.findall(r"<tr>.*?</tr>", page.split("</table>")[0], re.DOTALL)
    assert len(rows) == 2 and all(len(re.findall(r"<t[hd]", row)) == 3 for row in rows)
    assert [line for line in page.splitlines() if line.startswith("<h1")][0].count("alert(1)") == 2


def test_a_card_that_a_person_wrote_is_kept_and_ours_is_written_anew(copied, reports):
    folder = copied["distribution"]
    path = write_model_card(folder, reports["distribution"])
    full = path.read_text()
    # A card with results says more than one without.
    write_model_card(folder)
    assert path.read_text() == full
    path.write_text(full.replace("## Limits", "## Limit"))
    write_model_card(folder, reports["distribution"])
    assert path.read_text() == full
    # A model with our card may be replaced.
    check_model_folder(folder)
    path.write_text(full.replace(CARD_MARK, ""))
    mine = path.read_text()
    assert write_model_card(folder, reports["distribution"]) == path and path.read_text() == mine
    with pytest.raises(ValueError, match=r"model holds README\.md|distribution holds README\.md"):
        check_model_folder(folder)
    path.write_text(full)
    (folder / "plots" / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds plots/notes\.txt, which this package did not write"):
        check_model_folder(folder)


def test_what_is_no_model_or_no_report_of_it_is_refused(copied, reports, tmp_path):
    folder = copied["distribution"]
    with pytest.raises(ValueError, match=r"is of another model than .*; predict with this one"):
        write_model_card(folder, reports["annotator"])
    with pytest.raises(ValueError, match=r"holds no report\.json; give the folder"):
        write_model_card(folder, tmp_path / "nowhere")
    two = shutil.copytree(reports["distribution"], tmp_path / "two")
    found = json.loads((two / "report.json").read_text())
    found["evaluation"]["systems"] = ["A", "B"]
    (two / "report.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match="is not the report of one run"):
        write_model_card(folder, two)
    assert not (folder / "README.md").exists() and not (folder / ".eval_results").exists()
    (folder / FACTS).unlink()
    with pytest.raises(ValueError, match=r"has no training\.json that says what it was trained on"):
        write_model_card(folder)


@pytest.mark.parametrize(
    ("trunk", "version", "expected"),
    [
        ("log-mel", None, []),
        ("openai/whisper-base", "a" * 40, ["openai/whisper-base"]),
        ("roberta-base", None, ["roberta-base"]),
        ("models/whisper", "a" * 64, []),
        ("/data/whisper", "a" * 64, []),
    ],
)
def test_only_an_id_of_the_hub_is_a_base_model(trunk, version, expected, text_model):
    assert hub_trunks({"recipe": {"trunk": trunk}, "trunk": version}) == expected
    if trunk in ("openai/whisper-base", "models/whisper"):
        front, body = front_and_body(write_model_card(text_model(recipe={"trunk": trunk, "model": "x"}, trunk=version)))
        assert front.get("base_model", []) == expected and (trunk in body) == bool(expected)


def test_a_card_names_the_trunks_of_all_members(text_model):
    trunks = [["openai/whisper-base", "a" * 40], ["openai/whisper-tiny.en", None], ["/data/mine", "b" * 64]]
    trunks.append(["openai/whisper-base", None])
    front, body = front_and_body(write_model_card(text_model(recipe={"model": "seedbert"}, trunks=trunks)))
    assert front["base_model"] == ["openai/whisper-base", "openai/whisper-tiny.en"]
    assert (
        "over openai/whisper-base and over openai/whisper-tiny.en and over a checkpoint from a folder (SHA-256 bbb"
        in body
    )
    assert (
        "The licence of openai/whisper-base and of openai/whisper-tiny.en and of the checkpoint that it started" in body
    )
    assert "/data" not in body and "log-mel" not in body


def test_a_corpus_of_the_hub_is_named_by_its_id(copied, reports, tmp_path):
    folder, report = copied["distribution"], shutil.copytree(reports["distribution"], tmp_path / "report")
    facts = json.loads((folder / FACTS).read_text())
    facts["origin"]["repository"] = "me/votes@" + "c" * 40
    (folder / FACTS).write_text(json.dumps(facts))
    found = json.loads((report / "report.json").read_text())
    found["run"]["model_sha256"] = weights_digest(str(folder))
    (report / "report.json").write_text(json.dumps(found))
    front, _ = front_and_body(write_model_card(folder, report))
    assert front["datasets"] == ["me/votes"]
    assert front["model-index"][0]["results"][0]["dataset"]["type"] == "me/votes"
    (file,) = (folder / ".eval_results").iterdir()
    entry = parse_eval_result_entries(yaml.safe_load(file.read_text()))[0]
    assert (entry.dataset_id, entry.dataset_revision) == ("me/votes", "c" * 40)


def test_paths_in_a_recipe_end_where_the_machine_ends(text_model):
    paths = {"trunk_layer": "/home/zoe/runs/saliency.json", "votes.annotations": "C:\\zoe\\votes"}
    body = write_model_card(text_model(recipe={"model": "distribution"} | paths)).read_text()
    assert "| saliency.json |" in body and "zoe" not in body and "2503.22711" in body
