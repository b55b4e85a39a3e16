"""A saved folder is all that anybody needs: it loads where annot_hf is not installed, and gives the same numbers."""

import ast
import json
import os
import subprocess
import sys

import pytest
import tiny
import torch
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel, modeling_utils

from annot_hf.models.modeling_annotator import AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.modeling_log_mel import LogMelModel
from annot_hf.training.checkpoints import load_model

READER = """
import importlib.abc, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "annot_hf":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import copy
import torch
torch.set_num_threads(1)
from transformers import AutoConfig, AutoModel
for folder in sys.argv[1:]:
    model = AutoModel.from_pretrained(folder, trust_remote_code=True)
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    assert not model.training and type(config).__module__.startswith("transformers_modules")
    model = copy.deepcopy(model)  # CPU kernels round differently on weights that lie unaligned in the mapped file
    inputs = torch.load(f"{folder}/inputs.pt")
    with torch.inference_mode():
        output = model(**inputs)
    torch.save({"output": dict(output), "tensors": model.state_dict() | dict(model.named_buffers())}, f"{folder}/found.pt")
assert "annot_hf" not in sys.modules
"""
CASES = [
    (kind, build) for kind in ("log-mel", "whisper", "wavlm", "bert") for build in (tiny.annotator, tiny.distribution)
]
LAYERS = {"wavlm-layer": 1, "hubert": "weighted", "roberta": 0}  # cases with a layer chosen
CASES += [(kind, tiny.distribution) for kind in LAYERS]
MEMBERS = {"bert": "lora", "whisper": "lora", "wavlm-layer": "lora", "wavlm": "shared", "log-mel": "independent"}
CASES += [(kind, tiny.seedbert) for kind in MEMBERS]


def disturbed(model):
    """The model with no weight or buffer left at its initial value, so that a lost one shows."""
    torch.manual_seed(5)
    for tensor in model.state_dict().values():
        if tensor.is_floating_point():
            tensor += 0.1 * torch.rand_like(tensor)
    return model


def imports_of(path):
    """Modules that a file imports by their full name."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    yield from (node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and not node.level)
    yield from (alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names)


def run(folders, home):
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_HOME": str(home / "hf"), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", READER, *map(str, folders)]
    return subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, timeout=300, check=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Every case saved, then read by a process without the package: name -> (model, output here, folder)."""
    home, found = tmp_path_factory.mktemp("hub"), {}
    for kind, build in CASES:
        name = f"{kind}-{build.__name__}.v1"
        options = {"bins": 3, "draws": 20, "rater_head": "residual"} if build is tiny.annotator else {"loss": "jsd"}
        if build is tiny.seedbert:
            options = {"members": MEMBERS[kind], "lora_layers": 1}
        model = disturbed(build(kind, pooling_stride=2, trunk_layer=LAYERS.get(kind), **options))
        model.save_pretrained(home / name)
        inputs = tiny.inputs(kind, tiny.lengths(kind))
        torch.save(inputs, home / name / "inputs.pt")
        with torch.inference_mode():
            found[name] = (model, model(**inputs), home / name)
    result = run([folder for _, _, folder in found.values()], home)
    assert result.returncode == 0, result.stderr[-3000:]
    return found


@pytest.mark.parametrize("name", [f"{kind}-{build.__name__}.v1" for kind, build in CASES])
def test_remote_code_gives_identical_outputs_weights_and_buffers(saved, name):
    model, output, folder = saved[name]
    found = torch.load(folder / "found.pt")
    assert found["output"].keys() == dict(output).keys()
    for field, value in output.items():
        assert torch.equal(found["output"][field], value), field
    expected = model.state_dict() | dict(model.named_buffers())
    assert found["tensors"].keys() == expected.keys()
    for tensor, value in expected.items():
        assert torch.equal(found["tensors"][tensor], value), tensor


@pytest.mark.parametrize("name", [f"{kind}-{build.__name__}.v1" for kind, build in CASES])
def test_with_the_package_no_trust_is_needed(saved, name):
    model, output, folder = saved[name]
    for loaded in (AutoModel.from_pretrained(folder), type(model).from_pretrained(folder)):
        assert type(loaded) is type(model)
        assert loaded.config.support == AutoConfig.from_pretrained(folder).support == model.config.support
        with torch.inference_mode():
            again = loaded(**torch.load(folder / "inputs.pt"))
        for field, value in output.items():  # not to the bit: kernels round by where in memory the weights lie
            torch.testing.assert_close(again[field], value, rtol=1e-5, atol=1e-6)
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
        for buffer, value in model.named_buffers():
            assert torch.equal(dict(loaded.named_buffers())[buffer], value)


def test_the_folder_holds_safetensors_code_and_nothing_of_ours_besides(saved):
    for name, (model, _, folder) in saved.items():
        files = {path.name for path in folder.iterdir()} - {"inputs.pt", "found.pt", "__pycache__"}
        code = {name for name in files if name.endswith(".py")}
        assert files - code == {"config.json", "model.safetensors"}
        assert {"measures.py", "kde.py", "heads.py", "trunks.py", "modeling_log_mel.py"} - code <= {"kde.py"}
        for path in folder.glob("*.py"):
            assert "annot_hf" not in {module.partition(".")[0] for module in imports_of(path)}, path
        assert load_file(folder / "model.safetensors").keys() <= model.state_dict().keys()
        assert "AutoModel" in json.loads((folder / "config.json").read_text())["auto_map"], name


def test_no_module_of_ours_has_a_buffer_that_is_not_saved():
    """Such a buffer comes back as garbage: the library builds models without data and fills in what was saved."""
    for kind in (*tiny.TRUNKS, "whisper", "hubert", "wav2vec2", "data2vec-audio"):
        for model in (tiny.annotator(kind), tiny.distribution(kind)):
            ours = (part for part in model.modules() if not type(part).__module__.startswith("transformers.models."))
            assert not any(part._non_persistent_buffers_set for part in ours)


def test_weights_come_from_safetensors_only(tmp_path):
    model = tiny.annotator()
    model.save_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    for load in (AutoModel.from_pretrained, AnnotatorModel.from_pretrained):
        with pytest.raises(OSError, match=r"no file named model\.safetensors"):
            load(tmp_path)
    torch.save({}, tmp_path / "inputs.pt")
    result = run([tmp_path], tmp_path)
    assert result.returncode and "no file named model.safetensors" in result.stderr


@pytest.mark.parametrize("kind", ["eager", "sdpa"])
@pytest.mark.parametrize("build", [tiny.distribution, tiny.annotator, tiny.seedbert])
def test_the_trunk_has_the_attention_that_is_asked_for(build, kind, tmp_path):
    build("bert").save_pretrained(tmp_path)
    for load in (AutoModel.from_pretrained, build("bert").from_pretrained):
        assert {one.config._attn_implementation for one in load(tmp_path, attn_implementation=kind).trunks} == {kind}
    trunk = tiny.trunk_config("bert", attn_implementation=kind)
    assert build("bert", trunk=trunk).trunks[0].config._attn_implementation == kind
    with pytest.raises(ValueError, match="WavLMModel does not support an attention implementation"):
        tiny.distribution("wavlm", attn_implementation="sdpa")


@pytest.mark.parametrize("place", [(), ("trunk_config",)])
@pytest.mark.parametrize("key", ["_attn_implementation", "attn_implementation"])
@pytest.mark.parametrize("name", ["me/mine@main:attention", "fast"])
def test_an_attention_that_is_code_on_the_hub_is_refused(name, key, place, tmp_path, monkeypatch):
    monkeypatch.setattr(modeling_utils, "lazy_import_flash_attention", lambda *a, **b: pytest.fail("it was fetched"))
    for model in (tiny.distribution("bert"), tiny.annotator()):
        model.save_pretrained(tmp_path)
        config = json.loads((tmp_path / "config.json").read_text())
        (config[place[0]] if place else config)[key] = name
        (tmp_path / "config.json").write_text(json.dumps(config))
        for load in (AutoModel.from_pretrained, type(model).from_pretrained, load_model, AutoModel.from_config):
            with pytest.raises(ValueError, match=f"attn_implementation is '{name}' for a .*; use a built-in one"):
                load(AutoConfig.from_pretrained(tmp_path) if load == AutoModel.from_config else tmp_path)
        model.save_pretrained(tmp_path)
        with pytest.raises(ValueError, match=f"attn_implementation is '{name}'"):
            AutoModel.from_pretrained(tmp_path, attn_implementation=name)
    trunk = tmp_path / "trunk"
    tiny.distribution("bert").trunk.save_pretrained(trunk)
    config = json.loads((trunk / "config.json").read_text()) | {key: name}
    (trunk / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"attn_implementation is '{name}' for a bert"):
        DistributionModel.from_trunk(str(trunk), questions=tiny.CATEGORY)


@pytest.mark.parametrize("build", [tiny.distribution, tiny.annotator, tiny.seedbert])
def test_labels_are_numbered_both_ways(build, tmp_path):
    model = build("bert")
    model.save_pretrained(tmp_path)
    for config in (model.config, AutoConfig.from_pretrained(tmp_path)):
        assert config.label2id == {label: number for number, label in config.id2label.items()}
        assert list(config.label2id) == list(config.support)
    with pytest.raises(ValueError, match="label2id is {'low': 0} and id2label .*; give its inverse, or leave it out"):
        build("bert", label2id={"low": 0})


def test_training_starts_where_it_was_told_after_a_round_trip(tmp_path):
    """A model that was saved and loaded is as trainable as before, and its heads as they were."""
    model = disturbed(tiny.annotator(freeze_trunk=True))
    model.save_pretrained(tmp_path)
    loaded = AnnotatorModel.from_pretrained(tmp_path)
    assert loaded.config.freeze_trunk and not loaded.train().trunk.training and loaded.embedding.training


def test_the_log_mel_trunk_loads_by_itself(tmp_path):
    trunk = disturbed(LogMelModel(tiny.trunk_config("log-mel")).eval())
    trunk.save_pretrained(tmp_path)
    loaded = AutoModel.from_pretrained(tmp_path)
    inputs = tiny.inputs("log-mel", [30, 20])
    assert torch.equal(loaded(**inputs).last_hidden_state, trunk(**inputs).last_hidden_state)


def test_half_precision_loads(tmp_path):
    model = tiny.annotator()
    model.save_pretrained(tmp_path)
    loaded = AnnotatorModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    inputs = tiny.inputs("log-mel", [30, 20])
    inputs["input_features"] = inputs["input_features"].bfloat16()
    output = loaded(**inputs)
    assert output.probs.dtype == torch.float32
    torch.testing.assert_close(output.probs, model(**tiny.inputs("log-mel", [30, 20])).probs, rtol=0, atol=0.1)
