"""Five members over a MiniLM-L6-shaped BERT against one: time of a prediction, size of a checkpoint, memory of training.

What the cheap members cost in JSD against independent ones (nats, n = 5, paired, 95 %; docs/results.md): shared 0.007 (0.000
to 0.016) on ConvAbuse and 0.029 (0.015 to 0.045) on EmoBank, LoRA 0.009 (0.001 to 0.017) and 0.001 (-0.005 to 0.007).
"""

import copy
import functools
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from transformers import BertConfig

from annot_hf.models.adapters import MemberAdapter
from annot_hf.models.configuration_seedbert import SeedBertConfig
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.modeling_seedbert import SeedBert
from benchmarks.timing import Result

MEMBERS, DEPTH, TOP, BATCH, TOKENS = 5, 6, (1, 2), 16, 48
TRUNK = {
    "vocab_size": 30_522,
    "hidden_size": 384,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": 12,
    "intermediate_size": 1536,
}
QUESTIONS = [{"name": "severity", "labels": ["none", "ambiguous", "mild", "strong", "very strong"]}]
KINDS = {"shared": {"members": "shared"}, "independent": {"members": "independent"}}
KINDS |= {f"lora, top {top} of {DEPTH}": {"members": "lora", "lora_layers": top} for top in TOP}
LIMITS = {"shared": 1.15, "independent": 1.25 * MEMBERS}  # a loop over five members costs some 5.1
LIMITS |= {f"lora, top {top} of {DEPTH}": 1.1 * (DEPTH - top + MEMBERS * top) / DEPTH for top in TOP}


def run() -> Iterator[Result]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    models = {name: ensemble(**options) for name, options in KINDS.items()}
    ids = torch.randint(1, TRUNK["vocab_size"], (BATCH, TOKENS))
    lengths = torch.linspace(TOKENS // 3, TOKENS, BATCH).long()
    batch = {"input_ids": ids, "attention_mask": (torch.arange(TOKENS) < lengths[:, None]).long()}
    yield from prediction(models, batch)
    yield from checkpoints(models)
    yield from training_memory(batch)


def ensemble(**options: object) -> SeedBert:
    """Members as the paper has them, a linear layer on the first token; adapters do something."""
    config = SeedBertConfig(
        trunk_config=BertConfig(**TRUNK),
        questions=QUESTIONS,
        num_members=MEMBERS,
        pooling="first",
        embedding_kind="none",
        **options,
    )
    model = SeedBert(config).eval()
    for module in model.modules():
        if isinstance(module, MemberAdapter):
            torch.nn.init.normal_(module.lora_b, std=0.02)
    return model


def alone(model: SeedBert, number: int) -> DistributionModel:
    """One member as a model of its own, its adapters merged into the weights."""
    if model.config.members == "independent":
        return model.members[number]
    config = model.config.member_config()
    config.freeze_trunk = False  # frozen frames would be rounded, and those behind adapters are not
    single = DistributionModel(config).eval()
    single.trunk.load_state_dict(model.trunk.state_dict())
    single.head.load_state_dict(model.members[number].head.state_dict())
    if model.config.members == "lora":
        layers = single.trunk.encoder.layer[-len(model.adapters.layers) :]
        for layer, adapters in zip(layers, model.adapters.layers, strict=True):
            for name, adapter in adapters.items():
                delta = adapter.scale * adapter.lora_b[number] @ adapter.lora_a[number]
                getattr(layer.attention.self, name).weight.data += delta
    return single


@torch.inference_mode()
def prediction(models: dict[str, SeedBert], batch: dict[str, torch.Tensor]) -> Iterator[Result]:
    """CPU time of one member as a plain `DistributionModel`, times the limit; parity with every member by itself."""
    for name, model in models.items():
        calls = functools.partial(model, **batch), functools.partial(alone(model, 0), **batch)
        seconds, baseline = medians(*calls, rounds=3 if name == "independent" else 9)
        found = model(**batch).member_logits
        expected = torch.stack([alone(model, number)(**batch).logits for number in range(MEMBERS)], 1)
        difference = float((found - expected).abs().max())
        subject = f"{MEMBERS} members, {name}"
        yield Result(subject, "one member", baseline, seconds, 1 / LIMITS[name], difference, 1e-4)


def medians(*calls: Callable[[], object], rounds: int) -> list[float]:
    """Median CPU time of each call (s), in turns; of one thread, so that programs beside it hardly count."""
    spent: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds + 1):
        for call, seconds in zip(calls, spent, strict=True):
            start = time.process_time()
            call()
            seconds.append(time.process_time() - start)
    return [statistics.median(seconds[1:]) for seconds in spent]  # the first is the warm-up


def checkpoints(models: dict[str, SeedBert]) -> Iterator[Result]:
    """Size of the saved folder, in MB where the table says ms."""
    for name in ("shared", f"lora, top {TOP[-1]} of {DEPTH}"):
        sizes = []
        for model in (models[name], alone(models[name], 0)):
            with tempfile.TemporaryDirectory() as folder:
                model.save_pretrained(folder)
                sizes.append(sum(path.stat().st_size for path in Path(folder).iterdir()) / 1e9)
        yield Result(f"checkpoint (MB), {name}", "one member", sizes[1], sizes[0], 1 / 1.2, 0.0, 0.0)


def training_memory(batch: dict[str, torch.Tensor]) -> Iterator[Result]:
    """Bytes that one training step needs at its end: weights, gradients, Adam's state and what the backward pass keeps."""
    model = ensemble(members="shared")
    sizes = [step_bytes(copy.deepcopy(one).train(), batch) / 1e9 for one in (model, alone(model, 0))]
    yield Result("training (MB), shared", "one member", sizes[1], sizes[0], 1 / 1.3, 0.0, 0.0)


def step_bytes(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> int:
    """Bytes of the tensors saved for backward, each storage once, and four times the trainable weights."""
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = model(**batch, labels=torch.full((BATCH, 5), 0.2)).loss
    activations = sum(size for place, size in kept.items() if place not in weights)
    assert loss.requires_grad
    return activations + 4 * sum(weight.nbytes for weight in model.parameters() if weight.requires_grad)
