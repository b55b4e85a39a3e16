import json
from datetime import date
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny
from tiny_qwen2_audio import make_tokenizer, tiny_config
from transformers import TrainingArguments

from annot_hf.models.configuration_distribution import DistributionConfig
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.training.recipe import dated_folder, describe_recipe, load_recipe, make_run, recipe_names
from annot_hf.training.train import MODELS

SCALES = [{"name": "activation", "low": 1, "high": 5}, {"name": "valence", "low": 1, "high": 5}]


@pytest.fixture
def write(tmp_path):
    """Writes a recipe and gives its path."""

    def make(text):
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return make


@pytest.mark.parametrize("name", recipe_names())
def test_every_packaged_recipe_loads_and_its_model_builds(name, tmp_path):
    run = load_recipe(name, {"output_dir": str(tmp_path)})
    assert isinstance(run.training, TrainingArguments)
    model_class = MODELS[run.recipe.model]
    options = dict(run.options, questions=tiny.CATEGORY if name.startswith(("text-", "seedbert")) else SCALES)
    if run.recipe.model == "annotator":
        options["annotators"] = ["a", "b"]
    if run.recipe.scales:
        options["scale_questions"] = [{"name": name, "low": 1, "high": 7} for name in run.recipe.scales]
    if run.recipe.model == "qwen2-audio":
        options["lalm_config"] = tiny_config(make_tokenizer())
    elif run.recipe.trunk == "log-mel":
        options["trunk_config"] = LogMelConfig(**run.trunk_options)
    else:  # as deep as the smallest trunk that a recipe names
        options["trunk_config"] = tiny.WavLMConfig(
            **tiny.trunk_config("wavlm").to_diff_dict() | {"num_hidden_layers": 12}
        )
    model_class(model_class.config_class(**options))


def test_the_uncertainty_model_is_as_large_as_published():
    """95.96 M parameters in all (arXiv 2606.27536), of which WavLM-Base has 94,381,936."""
    run = load_recipe("uncertainty")
    wide = tiny.trunk_config("wavlm").to_diff_dict() | {"hidden_size": 768, "num_attention_heads": 2}
    options = run.options | {
        "questions": [{"name": "emotion", "labels": [str(number) for number in range(9)]}],
        "scale_questions": [{"name": name, "low": 1, "high": 7} for name in run.recipe.scales],
        "trunk_config": tiny.WavLMConfig(**wide),
    }
    model = DistributionModel(DistributionConfig(**options))
    heads = sum(p.numel() for name, p in model.named_parameters() if not name.startswith("trunk."))
    assert (94_381_936 + heads) / 1e6 == pytest.approx(95.96, abs=0.005)


def test_rows_of_the_paper_state_what_differs():
    base = load_recipe("uncertainty")
    found = {name: load_recipe(name) for name in recipe_names() if name.startswith("uncertainty-")}
    assert len(found) == 9
    for run in found.values():
        differing = {key for key in base.values | run.values if base.values.get(key) != run.values.get(key)}
        assert 1 <= len(differing) <= 5 and differing <= {
            "target.method", "target.ties", "loss", "class_weights.kind", "class_weights.beta", "target.primary_weight",
            "curriculum.kind", "curriculum.reverse"
        }  # fmt: skip


@pytest.mark.parametrize("option", ["schedule.trunk_learning_rate=1e-5", "schedule.unfreeze_epochs=[1]"])
def test_a_frozen_trunk_has_no_rate_and_no_stages(option):
    words = ["freeze_trunk=true", "schedule.unfreeze_layers=[2]" if "unfreeze" in option else "seed=1", option]
    with pytest.raises(ValueError, match=f"freeze_trunk is true, which {option.split('=')[0]} contradicts"):
        load_recipe("speech-distribution", words)


def test_bases(tmp_path):
    (tmp_path / "under.yaml").write_text("base: speech-distribution\nlearning_rate: 1e-4\ndropout: 0.5\n")
    (tmp_path / "over.yaml").write_text("base: under.yaml\ndropout: 0.4\n")
    run = load_recipe(tmp_path / "over.yaml")
    assert (run.training.learning_rate, run.options["dropout"]) == (1e-4, 0.4)
    assert run.options["pooling_size"] == load_recipe("speech-distribution").options["pooling_size"]
    assert "base" not in run.values
    (tmp_path / "round.yaml").write_text("base: round.yaml\n")
    with pytest.raises(ValueError, match="its own base"):
        load_recipe(tmp_path / "round.yaml")
    (tmp_path / "lost.yaml").write_text("base: speech-distributio\n")
    with pytest.raises(ValueError, match="did you mean 'speech-distribution'"):
        load_recipe(tmp_path / "lost.yaml")


def test_the_three_homes_and_the_record(write):
    path = write("corpus: here\nmodel: annotator\nquestion: emotion\nlearning_rate: 1e-3\nhidden_size: 32\ndraws: 20\n")
    run = load_recipe(path, ["--num_train_epochs=3", "conv_channels=[4, 8, 8]", "run_name=1e-3"])
    assert (run.recipe.corpus, run.recipe.model, run.recipe.question) == ("here", "annotator", ["emotion"])
    assert (run.options, run.trunk_options) == ({"draws": 20}, {"hidden_size": 32, "conv_channels": [4, 8, 8]})
    assert (run.training.learning_rate, run.training.num_train_epochs) == (0.001, 3)
    assert run.training.run_name == "1e-3"
    assert run.values == {
        "corpus": "here",
        "model": "annotator",
        "question": "emotion",
        "learning_rate": "1e-3",
        "hidden_size": 32,
        "draws": 20,
        "num_train_epochs": 3,
        "conv_channels": [4, 8, 8],
        "run_name": "1e-3",
    }
    assert load_recipe(path, {"draws": 7}).options == {"draws": 7}


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("learning_rate: 1e-3", 0.001),
        ("learning_rate: 1", 1.0),
        ("learning_rate: '0.5'", 0.5),
        ("seed: '7'", 7),
        ("seed: 1e3", 1000),
        ("max_steps: 5.0", 5),
        ("warmup_steps: 0.1", 0.1),
        ("dropout: 1e-1", 0.1),
        ("freeze_trunk: yes", True),
        ("mel_mean: 1e1", 10.0),
        ("trunk: some/wavlm\ntrunk_layer: 6", 6),
        ("trunk: some/wavlm\ntrunk_layer: '6'", 6),
        ("trunk: some/wavlm\ntrunk_layer: weighted", "weighted"),
        ("trunk: some/wavlm\ntrunk_layer: [1, '3']", [1, 3]),
        ("trunk_layer:", None),
        ("mel_mean: [1, 2e0]", [1.0, 2.0]),
        ("corpus: 2024", "2024"),
        ("question: [a, b]", ["a", "b"]),
        ("target.primary_weight: 1", 1.0),
        ("target.ties: guarded", "guarded"),
        ("target.majority_of: merged", "merged"),
    ],
)
def test_numbers_are_read_as_numbers(write, line, value):
    run, name = load_recipe(write(line)), line.splitlines()[-1].partition(":")[0]
    homes = (run.recipe.changed(), run.options, run.trunk_options, vars(run.training))
    (found,) = [home[name] for home in homes if name in home]
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rat: 1", r"mine\.yaml: unknown key 'learning_rat'.*learning_rate"),
        ("curriculum: {knd: filter}", "unknown key 'curriculum.knd'.*'curriculum.kind'"),
        ("trunk_learning_rate: 1", r"'trunk_learning_rate' \(did you mean 'schedule\.trunk_learning_rate'\?\)"),
        ("curriculum_by: batch", r"'curriculum_by' \(did you mean 'curriculum\.by'\?\)"),
        ("weight: 1", r"unknown key 'weight' \(did you mean 'target\.primary_weight' or 'votes\.synthetic_weight'\?\)"),
        ("curriculum: {kind: sort}", "curriculum.kind is 'sort'; use one of filter, weight"),
        ("curriculum: {by: epoch}", "curriculum.by is 'epoch'; use one of batch, corpus, threshold"),
        ("schedule.newbob: newton", "schedule.newbob is 'newton'; use one of compose, overwrite"),
        ("target: soft", "target is 'soft', but it is a group of keys; set target.method"),
        ("curriculum:", "curriculum is None, but it is a group of keys"),
        ("target: {ties: draw}\ntarget.ties: share", "target.ties is given twice"),
        ("rater_head: residual", "unknown key 'rater_head'"),  # an option of annotator models
        ("model: annotator\nrater_hed: residual", "unknown key 'rater_hed'.*rater_head"),
        ("trunk: some/wavlm\nnum_mel_bins: 40", "num_mel_bins is an option of the log-mel trunk"),
        ("annotators: [a]", "unknown key 'annotators'"),
        ("1: 2", "unknown key 1"),
        ("training:\n  seed: 1", "unknown key 'training'"),
        ("learning_rate: fast", "learning_rate is 'fast'; it must be a number"),
        ("learning_rate: [1]", r"learning_rate is \[1\]; it must be a number"),
        ("learning_rate: true", "learning_rate is True; it must be a number"),
        ("learning_rate:", "learning_rate is None; it must be a number"),
        ("seed: 1.5", "seed is 1.5; it must be a whole number"),
        ("seed: .inf", "seed is inf; it must be a whole number"),
        ("embedding_size: wide", "embedding_size is 'wide'; it must be a whole number"),
        ("freeze_trunk: 'maybe'", "freeze_trunk is 'maybe'; it must be true or false"),
        ("freeze_trunk: 1", "freeze_trunk is 1; it must be true or false"),
        ("corpus: [a]", r"corpus is \['a'\]; it must be text"),
        ("trunk_layer: true", "trunk_layer is True; it must be a whole number or text or a list"),
        ("conv_channels: 16", "conv_channels is 16; it must be a list"),
        ("conv_channels: [a]", "conv_channels is 'a'; it must be a whole number"),
        ("mel_mean: loud", "mel_mean is 'loud'; it must be a number or a list"),
        ("model: transformer", "model is 'transformer'; use one of distribution, annotator"),
        ("schedule: {tasks: both}", "schedule.tasks is 'both'; use one of alternate"),
        ("target: {ties: gaurded}", "target.ties is 'gaurded'; use one of share, draw, other, guarded"),
        ("target.majority_of: all", "target.majority_of is 'all'; use one of primary, merged"),
        ("target:\n  primary_weight: M90", "target.primary_weight is 'M90'; it must be a number"),
        ("trunk_layer: 6", "a trunk of type annot-log-mel has no choice of layers"),
        ("head: deep", "mine.yaml: head is 'deep'; use one of linear, mlp"),
        ("pooling: max", "mine.yaml: pooling is 'max'; use one of mean"),
        ("class_weights.kind: inverse\nloss: jsd", "loss is 'jsd', which takes no class_weights"),
        ("scales: [valence]\nscale_question_weights: [1, 2]", "2 scale_question_weights for 1 scale questions"),
        ("dropout: 5", "dropout is 5.0; it is a share from 0 to 1"),
        ("mask_time_prob: 5", "mask_time_prob is 5.0; it is a share from 0 to 1"),
        ("embedding_size: 0", "embedding_size is 0; it must be a whole number, 1 or more"),
        ("conv_strides: [2, 2, 0]", "conv_strides is 0; it must be a whole number, 1 or more"),
        ("tilt_jitter: -1", "tilt_jitter is -1.0; it must be 0 or more"),
        ("auxiliary_weight: .nan", "auxiliary_weight is nan; it must be 0 or more"),
        ("model: annotator\ndraws: 0", "draws is 0; it must be a whole number, 1 or more"),
        ("schedule.patience: -1", "schedule: patience is -1; it counts validation passes"),
        ("schedule: {newbob: compose, newbob_factor: 3}", "schedule: newbob_factor is 3.0 .* between 0 and 1"),
        ("schedule.newbob_factor: 0.5", "schedule.newbob_factor is set, and there is no schedule.newbob"),
        ("curriculum: {shares: [1], epochs: [1]}", "curriculum.epochs is set, and there is no curriculum.kind"),
        ("curriculum: {kind: filter}\ntarget: {method: majority}", "target.method is majority, which has none"),
        ("scales: [valence, valence]", "name 'valence' twice"),
        ("question: voice\nauxiliary: voice", "name 'voice' twice"),
        (
            "schedule.newbob: compose\neval_strategy: no\nload_best_model_at_end: false",
            "newbob needs validation passes",
        ),
        (
            "schedule.patience: 2\neval_strategy: 'no'\nload_best_model_at_end: false",
            "patience needs validation",
        ),
        (
            "model: annotator\naggregate: votes",
            "schedule.tasks is alternate and aggregate votes, which have no gradient",
        ),
        ("lr_scheduler_type: cosin", "mine.yaml: .*cosin"),
        ("- a\n- b", "holds a list; a recipe is a mapping"),
        ("", "holds a NoneType; a recipe is a mapping"),
        ("a: b: c", "is not YAML"),
        ("{a", "is not YAML"),
        (
            "seed: 1\ndropout: 0.1\nseed: 2",
            r"mine\.yaml is not YAML: the key 'seed' is given in line 1 and again in line 3",
        ),
        ("lr_scheduler_kwargs: {a: 1, 'a': 2}", "the key 'a' is given in line 1 and again in line 1"),
        ("run_name: 2024-13-45", "is not YAML: month must be in 1..12"),
        ("corpus: " + "[" * 5000 + "]" * 5000, "is nested too deeply"),
        ("corpus: " + "{a: " * 5000 + "}" * 5000, "is nested too deeply"),
        ("corpus: &a [*a]", "holds itself"),
        ("model: [x]", r"model is \['x'\]; it must be text"),
        ("model: {x: y}", r"model is {'x': 'y'}; it must be text"),
        ("trunk: [x]", r"trunk is \['x'\]; it must be text"),
        ("base: [x]", "There is no recipe"),
        ("metric_for_best_model: [x]", r"metric_for_best_model is \['x'\]; it must be text"),
        ("lr_scheduler_type: [x]", "SchedulerType"),
        ("accelerator_config: [1]", r"accelerator_config is \[1\]; it must be text or a mapping"),
        ("lr_scheduler_kwargs: [x]", r"lr_scheduler_kwargs is \['x'\]; it must be text or a mapping"),
        ("null: 1", "unknown key None"),
        ("[a]: 1", "unhashable key"),
    ],
)
def test_what_is_wrong_is_said(write, text, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(write(text))


def test_a_recipe_that_is_not_there():
    with pytest.raises(ValueError, match="There is no recipe 'speech-distributio'.*speech-distribution"):
        load_recipe("speech-distributio")
    with pytest.raises(ValueError, match=r"There is no recipe 'nowhere\.yaml'"):
        load_recipe("nowhere.yaml")
    with pytest.raises(ValueError, match="There is no recipe ''"):
        load_recipe("")


def test_a_folder_with_the_name_of_a_recipe_hides_no_recipe(tmp_path, monkeypatch):
    shipped = load_recipe("speech-distribution")
    (tmp_path / "speech-distribution").mkdir()
    monkeypatch.chdir(tmp_path)
    assert load_recipe("speech-distribution") == shipped


@pytest.mark.parametrize("word", ["learning_rate", "=3", "--", "seed=[1"])
def test_an_override_that_cannot_be_read(write, word):
    with pytest.raises(ValueError, match="Cannot read the override"):
        load_recipe(write("seed: 1"), [word])


@pytest.mark.parametrize("words", [["seed=1", "seed=2"], ["seed=1", "--seed=1"]])
def test_an_override_is_given_once(write, words):
    with pytest.raises(ValueError, match="The override seed is given twice; remove one"):
        load_recipe(write("seed: 0"), words)


def test_a_merged_mapping_may_be_overruled(write):
    path = write("accelerator_config: &a {even_batches: true}\nlr_scheduler_kwargs: {<<: *a, even_batches: false}\n")
    assert load_recipe(path).values["lr_scheduler_kwargs"] == {"even_batches": False}


def test_an_override_is_named_as_the_place_of_an_error(write):
    with pytest.raises(ValueError, match="unknown key 'sed'.*seed"):
        load_recipe(write("seed: 1"), ["sed=2"])
    with pytest.raises(ValueError, match="base belongs in a recipe file.*name 'cremad' as the recipe"):
        load_recipe(write("seed: 1"), ["base=cremad"])


def test_another_trunk_leaves_the_options_of_the_log_mel_one_aside(caplog):
    run = load_recipe("speech-distribution", ["trunk=microsoft/wavlm-base-plus", "learning_rate=1e-4"])
    assert run.trunk_options == {} and run.recipe.trunk == "microsoft/wavlm-base-plus"
    assert run.options["pooling_size"] == load_recipe("speech-distribution").options["pooling_size"]
    assert "mask_time_prob" in caplog.text and "left aside" in caplog.text
    with pytest.raises(ValueError, match="speed_jitter is an option of the log-mel trunk"):
        load_recipe("speech-distribution", ["trunk=some/wavlm", "speed_jitter=0.2"])


def test_measures_know_which_way_is_better():
    assert load_recipe("speech-distribution").training.greater_is_better is False
    assert load_recipe("speech-distribution", ["metric_for_best_model=macro_f1"]).training.greater_is_better is True
    assert load_recipe("uncertainty").training.greater_is_better is True
    for word in ("metric_for_best_model=f1", "metric_for_best_model=ccc"):
        with pytest.raises(ValueError, match="metric_for_best_model is .*ccc needs scales"):
            load_recipe("speech-distribution", [word])


def test_a_curriculum_needs_a_loss_per_item():
    with pytest.raises(ValueError, match="no loss per item for a curriculum"):
        load_recipe("speech-distribution", ["curriculum.kind=filter", "loss=ccc"])


def test_a_file_may_change_the_trunk_of_its_base(tmp_path):
    (tmp_path / "child.yaml").write_text("base: speech-distribution\ntrunk: some/wavlm\n")
    run = load_recipe(tmp_path / "child.yaml")
    assert run.recipe.trunk == "some/wavlm" and not run.trunk_options and run.options["pooling_size"] == 128


TOKEN = "hf_" + "abcDEF0123456789" * 2


@pytest.mark.parametrize(
    "values",
    [
        {"hub_token": "anything"},
        {"hub_token": [TOKEN]},
        {"run_name": TOKEN},
        {"learning_rate": TOKEN},
        {"question": ["emotion", TOKEN]},
        {"trunk": f"https://me:{TOKEN}@huggingface.co/some/wavlm"},
        {"trunk": "https://me:word@hub.example/some/wavlm"},
        {"accelerator_config": {"api_key": "anything"}},
        {"fsdp_config": {"parts": [{"token": "anything"}]}},
    ],
)
def test_a_secret_stands_in_no_recipe_and_no_message(values, write, caplog):
    name = next(iter(values))
    doors = [
        lambda: load_recipe("speech-distribution", values),
        lambda: load_recipe("speech-distribution", [f"{name}={json.dumps(values[name])}"]),
        lambda: load_recipe(write(f"base: speech-distribution\n{name}: {json.dumps(values[name])}\n")),
        lambda: make_run(values),
    ]
    for door in doors:
        with pytest.raises(ValueError, match=rf"{name}.* holds a secret.*HF_TOKEN") as refused:
            door()
        assert not any(word in str(refused.value) + caplog.text for word in (TOKEN, "anything", "me:word"))


def test_an_override_that_is_no_yaml_is_not_repeated():
    with pytest.raises(ValueError, match="Cannot read the override hub_token") as refused:
        load_recipe("speech-distribution", [f"hub_token=[{TOKEN}"])
    assert TOKEN not in str(refused.value)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("label_smoothing_factor", 0.1),
        ("neftune_noise_alpha", 5.0),
        ("train_sampling_strategy", "group_by_length"),
        ("length_column_name", "seconds"),
        ("group_by_length", True),
        ("data_seed", 1),
        ("remove_unused_columns", True),
        ("label_names", ["votes"]),
        ("prediction_loss_only", True),
        ("include_for_metrics", ["inputs"]),
        ("batch_eval_metrics", True),
        ("eval_do_concat_batches", False),
        ("dataloader_drop_last", True),
        ("dataloader_in_order", False),
        ("auto_find_batch_size", True),
        ("resume_from_checkpoint", "last"),
        ("do_train", True),
        ("do_predict", True),
        ("use_cache", True),
        ("use_liger_kernel", True),
        ("hub_always_push", True),
        ("hub_strategy", "checkpoint"),
        ("hub_model_id", "me/mine"),
        ("greater_is_better", True),
        ("activation_checkpointing", True),
        ("per_device_train_batch_size", 0),
        ("per_device_eval_batch_size", -1),
        ("gradient_accumulation_steps", 0),
        ("num_train_epochs", 0),
        ("max_steps", 0),
        ("report_to", "clearml"),
        ("report_to", ["wandbb"]),
    ],
)
def test_stock_options_that_cannot_work_are_refused(option, value):
    with pytest.raises(ValueError, match=option):
        load_recipe("speech-distribution", {option: value, "use_cpu": True})


def test_an_error_names_the_overrides_beside_the_file():
    with pytest.raises(ValueError, match=r"speech-distribution\.yaml with your seed, report_to: report_to is wandbb"):
        load_recipe("speech-distribution", ["seed=1", "report_to=wandbb"])


def test_fp16_and_schedules_that_cannot_be_changed_are_refused():
    with pytest.raises(ValueError, match="fp16 is true, and a CPU would compute in float32"):
        load_recipe("speech-distribution", {"fp16": True, "use_cpu": True})
    with pytest.raises(ValueError, match="lr_scheduler_type is reduce_lr_on_plateau, whose rates schedule.newbob"):
        load_recipe("speech-distribution", {"schedule.newbob": "compose", "lr_scheduler_type": "reduce_lr_on_plateau"})


def test_stock_options_at_what_they_are_anyway_are_taken():
    said = {"label_smoothing_factor": 0, "remove_unused_columns": False, "label_names": ["labels"]}
    said |= {
        "trunk": "some/sk-learning-a-base-model-v2",
        "hub_token": None,
        "dataloader_drop_last": False,
        "train_sampling_strategy": "random",
        "push_to_hub": False,
    }
    assert not load_recipe("speech-distribution", said).pushes


@pytest.mark.parametrize("kind", ["sk-proj-", "sk-ant-api03-", "sk-or-v1-", "sk-svcacct-", "sk-", "hf_"])
def test_keys_of_several_makers_are_told_from_text(kind):
    key = kind + ("aB3" * 9 if kind in ("sk-", "hf_") else "aB3_d-" * 5)
    with pytest.raises(ValueError, match="run_name holds a secret") as caught:
        load_recipe("speech-distribution", {"run_name": key})
    assert key not in str(caught.value)


def test_options_are_mappings_in_every_run_of_a_process():
    for _ in range(2):  # the library's parser changes the types of the fields
        run = load_recipe("speech-distribution", {"lr_scheduler_kwargs": {"num_cycles": 1}})
        assert run.training.lr_scheduler_kwargs == {"num_cycles": 1}


def test_without_output_dir_a_run_has_a_dated_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("annot_hf.training.recipe.date", SimpleNamespace(today=lambda: date(2026, 11, 28)))
    fresh = "runs/2026-11-28-speech-distribution"

    def chosen(**options):
        return load_recipe("speech-distribution", **options).training.output_dir

    with pytest.raises(ValueError, match="runs holds no run of recipe speech-distribution; name the folder"):
        chosen(resume=True)
    for folder in ("runs/2020-01-31-speech-distribution-7", f"{fresh}-mine", "runs/2026-11-28-distribution"):
        (tmp_path / folder).mkdir(parents=True)
    assert chosen() == fresh and chosen(resume=True) == "runs/2020-01-31-speech-distribution-7"
    for folder in (fresh, f"{fresh}-2", f"{fresh}-10"):
        (tmp_path / folder).mkdir()
    assert chosen() == f"{fresh}-11" and chosen(resume=True) == f"{fresh}-10"
    assert chosen(overrides={"output_dir": "mine"}, resume=True) == "mine"
    # processes that train together must agree
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert dated_folder("speech-distribution") == Path(fresh)


def test_an_ensemble_without_a_trunk_shows_none(write):
    members = "members: independent\nensemble: {recipes: [cremad-tuned, cremad-quick]}"
    shown = describe_recipe(write(f"model: seedbert\nquestion: voice\n{members}"))
    assert shown["trunk"][1] is None and "conv_channels" not in shown
    assert describe_recipe("cremad")["trunk"][1] == "openai/whisper-base"
    assert "conv_channels" in describe_recipe("speech-distribution")
