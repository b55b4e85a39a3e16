import copy
import json
import os
import re
import subprocess
import sys

import pytest
import tiny
import torch
from torch.nn import functional
from transformers import AutoModel, BertConfig, GPT2Config, ModernBertConfig, PreTrainedTokenizerFast

from annot_hf.models.adapters import MemberAdapter
from annot_hf.models.configuration_seedbert import MEMBER_OPTIONS, SeedBertConfig
from annot_hf.models.losses import auxiliary_loss, distribution_loss
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.modeling_seedbert import SeedBert
from annot_hf.models.trunks import build_trunk, encode
from annot_hf.training.trainer import EffectiveBatch

MEMBERS = ("independent", "shared", "lora")
LABELS = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.2, 0.2, 0.6]])
MODERN = {
    "vocab_size": 50,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "cls_token_id": 1,
    "sep_token_id": 2,
}
LORA_KINDS = (*tiny.TEXT, *tiny.WAVEFORM, "modernbert")
CASES = [
    (kind, members)
    for kind in (*tiny.TRUNKS, "whisper")
    for members in MEMBERS
    if (kind, members) != ("log-mel", "lora")
]


def adapted(kind="bert", **options):
    """Members with adapters that do something, unlike those at the start."""
    options = {"lora_layers": 1, "pooling": "mean"} | options
    if kind == "modernbert":
        options["trunk"] = ModernBertConfig(**MODERN, **tiny.TRANSFORMER)
    model = tiny.seedbert("bert" if kind == "modernbert" else kind, members="lora", **options)
    draw = torch.Generator().manual_seed(1)
    for module in model.modules():
        if isinstance(module, MemberAdapter):
            module.lora_b.data.normal_(generator=draw)
    return model


def batch_of(kind):
    kind = "bert" if kind == "modernbert" else kind
    return tiny.inputs(kind, tiny.lengths(kind))


def member_alone(model, number):
    """A member as a plain model, its adapters merged into the trunk's weights: W + alpha / r B A."""
    config = model.config.member_config()
    config.freeze_trunk = False
    alone = DistributionModel(config).eval()
    alone.trunk.load_state_dict(model.trunk.state_dict())
    for part in ("pooling", "embedding", "head"):
        getattr(alone, part).load_state_dict(getattr(model.members[number], part).state_dict())
    if model.config.members == "lora":
        weights = dict(alone.trunk.named_parameters())
        named = {id(module): name for name, module in model.trunk.named_modules()}
        for linear in (module for module in model.trunk.modules() if isinstance(module, torch.nn.Linear)):
            for hook in linear._forward_hooks.values():
                if isinstance(getattr(hook, "__self__", None), MemberAdapter):
                    a, b = hook.__self__.lora_a[number], hook.__self__.lora_b[number]
                    scale = model.config.lora_alpha / model.config.lora_rank
                    weights[f"{named[id(linear)]}.weight"].data += scale * b @ a
    return alone


@pytest.mark.parametrize("members", MEMBERS)
def test_votes_histogram_and_mean_are_counted_from_the_members(members):
    model = tiny.seedbert(members=members, num_members=4, seed=2)
    output = model(**batch_of("bert"))
    softmax = [output.member_logits[:, number].softmax(-1) for number in range(4)]
    for row in range(3):
        voted = [int(probs[row].argmax()) for probs in softmax]
        assert output.votes[row].tolist() == voted
        assert output.histogram[row].tolist() == [voted.count(label) / 4 for label in range(3)]
    torch.testing.assert_close(output.mean_probs, sum(softmax) / 4)
    assert torch.equal(output.probs.argmax(-1), output.label)
    torch.testing.assert_close(output.probs, output.histogram, rtol=0, atol=2e-6)
    assert output.loss is output.token_attention is None
    other = tiny.seedbert(members=members, num_members=4, seed=2, distribution="mean_softmax")(**batch_of("bert"))
    assert torch.equal(other.probs, other.mean_probs) and torch.equal(other.histogram, output.histogram)


def test_a_tie_goes_to_the_larger_mean_softmax():
    model = tiny.seedbert(members="shared", num_members=4)
    logits = [[0.0, 2.0, 0.0], [0.0, 2.0, 0.0], [0.0, 0.0, 9.0], [0.0, 0.0, 9.0]]
    assert model._counted(torch.tensor([logits]))["label"].tolist() == [2]
    # the mean alone would choose label 0, which nobody voted for, or label 2, which one surely did
    split = [[1.9, 2.0, -9.0], [1.9, 2.0, -9.0], [1.9, -9.0, 2.0], [9.0, 0.0, 0.0]]
    counted = model._counted(torch.tensor([split]))
    assert counted["mean_probs"].argmax() == 0 and counted["label"].tolist() == [1]


@pytest.mark.parametrize("kind", tiny.TRUNKS)
@pytest.mark.parametrize("pooling", ["mean", "tcgru"])
def test_shared_members_are_heads_on_one_trunk(kind, pooling):
    model = tiny.seedbert(kind, members="shared", pooling=pooling)
    calls = []
    model.trunk.register_forward_hook(lambda *_: calls.append(1))
    found = model(**batch_of(kind)).member_logits
    assert len(calls) == 1
    for number in range(3):
        torch.testing.assert_close(found[:, number], member_alone(model, number)(**batch_of(kind)).logits)


def test_independent_members_are_whole_models():
    model = tiny.seedbert("wavlm", members="independent")
    found = model(**batch_of("wavlm"))
    for number, member in enumerate(model.members):
        assert type(member) is DistributionModel
        assert torch.equal(found.member_logits[:, number], member(**batch_of("wavlm")).logits)
    assert {name.split(".", 2)[2] for name in model.state_dict()} == model.members[0].state_dict().keys()


@pytest.mark.parametrize("kind", LORA_KINDS)
def test_a_members_adapters_are_merged_weights(kind):
    model = adapted(kind)
    rows = []
    layers = getattr(model.trunk, "encoder", getattr(model.trunk, "transformer", model.trunk))
    layers = getattr(layers, "layers", getattr(layers, "layer", None))
    for layer in layers:
        layer.register_forward_hook(lambda module, args, output: rows.append(len(args[0])))
    found = model(**batch_of(kind)).member_logits
    assert rows == [3, 9]  # the lower layer once, the upper once for each of three members
    for number in range(3):
        expected = member_alone(model, number)(**batch_of(kind)).logits
        torch.testing.assert_close(found[:, number], expected, rtol=1e-4, atol=1e-5)
    bare = tiny.seedbert("bert" if kind == "modernbert" else kind, trunk=model.config.trunk_config, members="shared",
                         pooling="mean")  # fmt: skip
    bare.trunk.load_state_dict(model.trunk.state_dict()), bare.members.load_state_dict(model.members.state_dict())
    assert (bare(**batch_of(kind)).member_logits - found).abs().max() > 1e-3  # the adapters are heard


@pytest.mark.parametrize("kind", ["bert", "wavlm", "mpnet"])
@pytest.mark.parametrize("layers", [1, 2, 3])
def test_adapters_may_begin_at_any_layer(kind, layers):
    model = adapted(kind, lora_layers=layers, trunk=tiny.trunk_config(kind, num_hidden_layers=3))
    found = model(**batch_of(kind)).member_logits
    expected = torch.stack([member_alone(model, number)(**batch_of(kind)).logits for number in range(3)], 1)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_adapters_are_those_of_peft():
    peft = pytest.importorskip("peft")
    model = adapted("bert", lora_layers=2, lora_rank=4, lora_alpha=6)
    frames, _ = model.frames(**batch_of("bert"))
    for number, found in enumerate(frames.chunk(3)):
        plain = build_trunk(model.config.trunk_config)
        plain.load_state_dict(model.trunk.state_dict())
        config = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["query", "value"])
        peft.get_peft_model(plain, config).eval()  # puts its layers into `plain`
        for depth, adapters in enumerate(model.adapters.layers):
            for name, adapter in adapters.items():
                linear = getattr(plain.encoder.layer[depth].attention.self, name)
                linear.lora_A["default"].weight.data.copy_(adapter.lora_a[number])
                linear.lora_B["default"].weight.data.copy_(adapter.lora_b[number])
        torch.testing.assert_close(found, encode(plain, **batch_of("bert"))[0], rtol=1e-4, atol=1e-5)


def test_adapters_change_nothing_at_the_start():
    model = tiny.seedbert(members="lora", pooling="first")
    frames, _ = model.frames(**batch_of("bert"))
    plain = build_trunk(model.config.trunk_config).eval()
    plain.load_state_dict(model.trunk.state_dict())
    expected = encode(plain, **batch_of("bert"))[0]
    for part in frames.chunk(3):
        torch.testing.assert_close(part, expected, rtol=1e-5, atol=1e-6)
    first, second, _ = model.adapters.layers[0]["query"].lora_a
    bound = 1 / model.config.trunk_config.hidden_size**0.5
    assert not torch.equal(first, second) and bound / 2 < first.abs().max() <= bound


@pytest.mark.parametrize(("kind", "members"), [case for case in CASES if case[0] != "whisper"])
def test_batching_and_padding_do_not_change_a_member(kind, members):
    model = adapted(kind) if members == "lora" else tiny.seedbert(kind, members=members, pooling="attention")
    lengths = tiny.lengths(kind)
    batch = tiny.inputs(kind, lengths, width=max(lengths) + 29)
    together = model(**batch, explain=True)
    for row, length in enumerate(lengths):
        alone = model(**{name: value[row : row + 1, :length] for name, value in batch.items()}, explain=True)
        torch.testing.assert_close(together.member_logits[row], alone.member_logits[0], rtol=1e-4, atol=1e-5)
        reach = alone.token_attention.shape[-1]
        torch.testing.assert_close(
            together.token_attention[row, :, :reach], alone.token_attention[0], rtol=1e-3, atol=1e-5
        )
        assert together.token_attention[row, :, reach:].abs().max() < 1e-6


@pytest.mark.parametrize("members", MEMBERS)
def test_windows_of_a_long_clip_do_not_change_a_member(members):
    model = adapted("whisper") if members == "lora" else tiny.seedbert("whisper", members=members, pooling="attention")
    lengths = tiny.lengths("whisper")
    batch = tiny.inputs("whisper", lengths, width=max(lengths) + 29)
    together = model(**batch).member_logits
    for row, length in enumerate(lengths):
        alone = model(input_features=batch["input_features"][row : row + 1, :, :length]).member_logits[0]
        torch.testing.assert_close(together[row], alone, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("members", MEMBERS)
def test_members_differ_at_the_start_and_the_seed_decides(members):
    model = tiny.seedbert(members=members)
    heads = [member.head.weight for member in model.members]
    assert not any(torch.equal(heads[0], other) for other in heads[1:])
    again, other = tiny.seedbert(members=members), tiny.seedbert(members=members, seed=1)
    assert all(torch.equal(value, again.state_dict()[name]) for name, value in model.state_dict().items())
    assert not torch.equal(heads[0], other.members[0].head.weight)


@pytest.mark.parametrize("members", MEMBERS)
def test_every_member_starts_from_the_plain_checkpoint(members, tmp_path):
    plain = AutoModel.from_config(tiny.trunk_config("bert"))
    plain.save_pretrained(tmp_path)
    model = SeedBert.from_trunk(tmp_path, questions=tiny.CATEGORY, members=members, num_members=3, **tiny.HEADS)
    assert len(model.trunks) == (3 if members == "independent" else 1) and not model.training
    for trunk in model.trunks:
        assert all(torch.equal(value, plain.state_dict()[name]) for name, value in trunk.state_dict().items())
    assert not torch.equal(model.members[0].head.weight, model.members[1].head.weight)


@pytest.mark.parametrize("kind", ["kl", "ccc"])
@pytest.mark.parametrize("members", MEMBERS)
def test_the_loss_is_the_mean_of_the_members_own(members, kind):
    options = {"class_weights": [1.0, 2.0, 0.5], "jsd_share": 0.3} if kind == "kl" else {}
    weights = torch.tensor([0.5, 1.5, 1.0]) if kind == "kl" else None
    model = tiny.seedbert(members=members, loss=kind, **options)
    output = model(**batch_of("bert"), labels=LABELS, item_weights=weights)
    losses = [
        distribution_loss(output.member_logits[:, number].softmax(-1), LABELS, kind, item_weights=weights, **options)
        for number in range(3)
    ]
    torch.testing.assert_close(output.loss, sum(losses) / 3)
    assert model.loss_spans_batch == (kind == "ccc")


@pytest.mark.parametrize("members", MEMBERS)
def test_every_member_answers_what_was_asked_beside(members, tmp_path):
    asked = [{"name": "seen", "labels": ["a", "b"]}, {"name": "heard", "labels": ["a", "b", "c"]}]
    model = tiny.seedbert(members=members, auxiliary_questions=asked, auxiliary_weight=0.7)
    beside = torch.tensor([[0.5, 0.5, 0.2, 0.2, 0.6], [1.0, 0.0] + [torch.nan] * 3, [torch.nan] * 2 + [0.0, 1.0, 0.0]])
    alone = model(**batch_of("bert"), labels=LABELS)
    output = model(**batch_of("bert"), labels=LABELS, auxiliary_targets=beside)
    assert output.auxiliary_probs.shape == (3, 3, 5)
    expected = sum(auxiliary_loss(output.auxiliary_probs[:, number], beside, [2, 3]) for number in range(3)) / 3
    torch.testing.assert_close(output.loss - alone.loss, 0.7 * expected)
    model.save_pretrained(tmp_path)
    again = SeedBert.from_pretrained(tmp_path)(**batch_of("bert"))
    torch.testing.assert_close(again.auxiliary_probs, output.auxiliary_probs)


@pytest.mark.parametrize(("kind", "members"), CASES)
def test_gradients_go_where_they_should(kind, members):
    trunk = tiny.trunk_config(kind)
    trunk.layerdrop = 0.9  # which would skip the layer that repeats the items
    model = tiny.seedbert(kind, members=members, trunk=trunk, **({"lora_layers": 1} if members == "lora" else {}))
    model.train()
    model(**batch_of(kind), labels=LABELS).loss.backward()
    learns = {name for name, parameter in model.named_parameters() if parameter.grad is not None}
    within = {name for name in learns if ".trunk." in f".{name}"}
    assert {f"members.{number}.head.weight" for number in range(3)} <= learns
    if members == "lora":
        assert not within and model.trunk.training and trunk.layerdrop == 0.9
        adapters = {name: model.get_parameter(name).grad for name in learns if name.startswith("adapters.")}
        assert len(adapters) == 4 and all(gradient.flatten(1).any(1).all() for name, gradient in adapters.items()
                                          if name.endswith("lora_b"))  # fmt: skip
    else:
        assert within
    frozen = tiny.seedbert(kind, members=members, freeze_trunk=True).train()
    frozen(**batch_of(kind), labels=LABELS).loss.backward()
    assert all(weight.grad is None for trunk in frozen.trunks for weight in trunk.parameters())
    assert all(member.head.weight.grad.any() for member in frozen.members)
    if members != "lora":
        assert not any(trunk.training for trunk in frozen.trunks)


def test_a_trunk_under_adapters_may_learn_too():
    model = tiny.seedbert(members="lora", freeze_trunk=False).train()
    model(**batch_of("bert"), labels=LABELS).loss.backward()
    assert model.trunk.embeddings.word_embeddings.weight.grad.any()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_adapters_gradients_are_those_of_merged_weights(checkpointing):
    trunk = tiny.trunk_config("bert", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    model = adapted("bert", trunk=trunk, lora_layers=2, dropout=0.0)
    oracle = copy.deepcopy(model)
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.train()(**batch_of("bert"), labels=LABELS).loss.backward()
    losses = [member_loss(oracle, number) for number in range(3)]
    (sum(losses) / 3).backward()
    for name, parameter in oracle.adapters.named_parameters():
        torch.testing.assert_close(model.adapters.get_parameter(name).grad, parameter.grad, rtol=1e-3, atol=1e-6)


def member_loss(model, number):
    """Loss of a member whose merged weights are functions of its adapters."""
    alone = DistributionModel(model.config.member_config()).eval()
    alone.config.freeze_trunk = False
    weights = dict(model.trunk.state_dict())
    for depth, adapters in enumerate(model.adapters.layers):
        for name, adapter in adapters.items():
            key = f"encoder.layer.{depth}.attention.self.{name}.weight"
            weights[key] = weights[key] + adapter.scale * adapter.lora_b[number] @ adapter.lora_a[number]
    output = torch.func.functional_call(alone.trunk, weights, kwargs=batch_of("bert"))
    member = model.members[number]
    pooled = member.pooling(output.last_hidden_state, batch_of("bert")["attention_mask"].bool())
    return distribution_loss(member.head(member.embedding(pooled)).softmax(-1), LABELS, "kl")


def test_a_copied_model_has_adapters_of_its_own():
    model = adapted()
    twin = copy.deepcopy(model)
    before = model(**batch_of("bert")).member_logits
    for parameter in twin.adapters.parameters():
        parameter.data.zero_()
    assert torch.equal(model(**batch_of("bert")).member_logits, before)
    assert (twin(**batch_of("bert")).member_logits - before).abs().max() > 1e-3


@pytest.mark.parametrize("members", MEMBERS)
def test_every_option_survives_saving(members, tmp_path):
    model = tiny.seedbert(members=members, freeze_trunk=members != "lora", distribution="mean_softmax", lora_rank=3,
                          head="mlp", lora_layers=1)  # fmt: skip
    model.save_pretrained(tmp_path)
    loaded = SeedBert.from_pretrained(tmp_path)
    own = ("num_members", "members", "distribution", "lora_layers", "lora_rank", "lora_alpha")
    for name in {*own, *MEMBER_OPTIONS, "support"} - {"trunk_config"}:
        assert getattr(loaded.config, name) == getattr(model.config, name), name
    torch.testing.assert_close(loaded(**batch_of("bert")).probs, model(**batch_of("bert")).probs)
    assert all(weight.requires_grad == (members == "lora") for weight in loaded.trunks[0].parameters())


@pytest.mark.parametrize("layer", [None, 1, 0, "weighted"])
@pytest.mark.parametrize("pooling", ["first", "mean", "attention"])
def test_token_attention_is_pooling_times_attention(pooling, layer):
    model = tiny.seedbert(members="shared", pooling=pooling, trunk_layer=layer)
    if layer == "weighted":
        model.layer_sum.scores.data = torch.tensor([0.3, -0.5, 1.0])
    batch = batch_of("bert")
    output, before = model(**batch, explain=True), model(**batch)
    torch.testing.assert_close(output.member_logits, before.member_logits, rtol=1e-4, atol=1e-5)
    assert model.trunk.config._attn_implementation != "eager"  # as it was
    whole = AutoModel.from_config(model.config.trunk_config, attn_implementation="eager").eval()
    whole.load_state_dict(model.trunk.state_dict(), strict=False)
    looked = whole(**batch, output_attentions=True).attentions
    mean = [torch.eye(9).expand(3, -1, -1), *(attention.mean(1) for attention in looked)]
    scores = torch.tensor([0.3, -0.5, 1.0]).softmax(0)
    matrix = mean[-1 if layer is None else layer] if layer != "weighted" else sum(
        score * attention for score, attention in zip(scores, mean, strict=True)
    )  # fmt: skip
    frames, mask = model.frames(**batch)
    for number, member in enumerate(model.members):
        real = mask.float()
        weights = {"first": functional.one_hot(torch.zeros(3).long(), 9).float(), "mean": real / real.sum(1)[:, None]}
        if pooling == "attention":
            weights["attention"] = member.pooling.score(frames)[..., 0].masked_fill(~mask, -torch.inf).softmax(-1)
        expected = (weights[pooling][:, None] @ matrix)[:, 0]
        torch.testing.assert_close(output.token_attention[:, number], expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(output.token_attention.sum(-1), torch.ones(3, 3))
    assert not output.token_attention.masked_fill(mask[:, None], 0).any()


@pytest.mark.parametrize(("kind", "members"), CASES)
def test_members_lean_on_different_tokens(kind, members):
    model = adapted(kind, pooling="attention") if members == "lora" else tiny.seedbert(
        kind, members=members, pooling="attention"
    )  # fmt: skip
    attention = model(**batch_of(kind), explain=True).token_attention
    assert attention.shape[:2] == (3, 3)
    torch.testing.assert_close(attention.sum(-1), torch.ones(3, 3), rtol=1e-4, atol=1e-4)
    assert (attention[:, 0] - attention[:, 1]).abs().max() > 1e-5


def test_what_cannot_be_explained_is_said():
    with pytest.raises(ValueError, match="explain is True and pooling is 'tcgru', whose GRU gives no weight"):
        tiny.seedbert(pooling="tcgru")(**batch_of("bert"), explain=True)
    model = tiny.seedbert(members="shared", pooling="mean")
    with pytest.raises(ValueError, match="attention comes from the trunk's inputs"):
        model(trunk_frames=torch.zeros(1, 4, 16), explain=True)


def test_shared_members_take_frames_and_others_do_not():
    model = tiny.seedbert(members="shared", pooling="mean", freeze_trunk=True)
    frames, mask = model.frames(**batch_of("bert"))
    expected = model(**batch_of("bert")).member_logits
    torch.testing.assert_close(model(trunk_frames=frames, trunk_mask=mask).member_logits, expected)
    for members in ("independent", "lora"):
        with pytest.raises(ValueError, match=f"members is '{members}', which has no frames in common"):
            tiny.seedbert(members=members)(trunk_frames=frames, trunk_mask=mask)


@pytest.mark.parametrize("members", MEMBERS)
def test_scales_and_autocast(members):
    model = tiny.seedbert(members=members, questions=tiny.SCALES, bins=2).train()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**batch_of("bert"), labels=torch.full((3, 4), 0.25))
    assert output.probs.shape == (3, 4) and output.probs.dtype == output.loss.dtype == torch.float32
    output.loss.backward()


def test_a_loss_over_the_batch_is_that_of_its_parts_joined():
    """What the trainer does with a CCC over several micro-batches."""
    model = tiny.seedbert(members="shared", loss="ccc", dropout=0.0, pooling="mean")
    batch = batch_of("bert") | {"labels": LABELS}
    whole = model(**batch).loss
    whole.backward()
    expected = [member.head.weight.grad.clone() for member in model.members]
    model.zero_grad()
    parts = [{name: value[rows] for name, value in batch.items()} for rows in (slice(0, 2), slice(2, 3))]
    effective = EffectiveBatch(model, model, parts, context=torch.enable_grad)
    torch.testing.assert_close(effective.loss, whole.detach())
    for part in parts:
        effective.surrogate(part).backward()
    for member, gradient in zip(model.members, expected, strict=True):
        torch.testing.assert_close(member.head.weight.grad, gradient, rtol=1e-4, atol=1e-6)


def save_tokenizer(folder, words, **options):
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: code for code, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", **options)
    fast("a b", truncation=True, max_length=2)  # leaves its mark in the backend, and means nothing
    fast.save_pretrained(folder)


def save_members(tmp_path, count=2, **options):
    folders = [tmp_path / f"member{seed}" for seed in range(count)]
    for seed, folder in enumerate(folders):
        tiny.distribution("bert", seed=seed, **options).save_pretrained(folder)
        save_tokenizer(folder, ["[PAD]", "[UNK]", "a", "b"], model_max_length=20)
    return folders


@pytest.mark.parametrize("kind", tiny.TRUNKS)
def test_from_members_answers_as_the_members_do(kind, tmp_path):
    options = {"pooling": "mean", "head": "mlp", "freeze_trunk": True, "loss": "jsd"}
    members = [tiny.distribution(kind, seed=seed, **options) for seed in range(3)]
    members[0].save_pretrained(tmp_path)
    model = SeedBert.from_members([tmp_path, *members[1:]], distribution="mean_softmax")
    found = model(**batch_of(kind), labels=LABELS)
    for number, member in enumerate(members):
        alone = member(**batch_of(kind))
        torch.testing.assert_close(found.member_logits[:, number], alone.logits, rtol=1e-5, atol=1e-6)
    config = model.config
    assert (config.members, config.num_members, config.distribution) == ("independent", 3, "mean_softmax")
    assert (config.head, config.loss, config.support) == ("mlp", "jsd", members[0].config.support)
    members[1].head[0].weight.data.zero_()
    assert model.members[1].head[0].weight.any()  # a copy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"questions": [{"name": "emotion", "labels": ["angry", "happy"]}]}, "has questions .*'angry', 'happy'.* and "),
        ({"questions": [{"name": "mood", "labels": ["angry", "happy", "sad"]}]}, "has questions .*mood"),
        ({"trunk": tiny.trunk_config("bert", vocab_size=60)}, "has trunk vocab_size 60 and .* 50"),
        ({"trunk": tiny.trunk_config("log-mel")}, "has input 'input_features' and .* 'input_ids'"),
        ({"scale_questions": tiny.SCALES}, "answers scale_questions beside its distribution"),
        ({"disagreement": "entropy"}, "answers disagreement beside its distribution"),
    ],
)
def test_members_that_differ_are_named(options, message, tmp_path):
    first, second = tiny.distribution("bert"), tiny.distribution("bert", seed=1, **options)
    second.save_pretrained(tmp_path / "odd")
    with pytest.raises(ValueError, match=rf"^member 1 {message}"):
        SeedBert.from_members([first, second])
    with pytest.raises(ValueError, match=f"odd {message}") as error:
        SeedBert.from_members([first, tmp_path / "odd"])
    assert "\n" not in str(error.value)


def test_members_with_auxiliary_questions_and_shares_of_the_marginal(tmp_path):
    marginal, shares = [0.5, 0.3, 0.2], (0.1, 0.3)
    members = [
        tiny.distribution(seed=seed, auxiliary_questions=tiny.CATEGORY, marginal=marginal, marginal_share=share)
        for seed, share in enumerate(shares)
    ]
    model = SeedBert.from_members(members, distribution="mean_softmax")
    plain = [member(**batch_of("log-mel")).logits.softmax(-1) for member in members]
    expected = 0.8 * sum(plain) / 2 + 0.2 * torch.tensor(marginal)
    model.save_pretrained(tmp_path)
    for one in (model, SeedBert.from_pretrained(tmp_path)):
        torch.testing.assert_close(one(**batch_of("log-mel")).probs, expected)
    votes = SeedBert.from_members(members)(**batch_of("log-mel"))
    torch.testing.assert_close(votes.probs, votes.histogram, rtol=0, atol=2e-6)


def test_members_of_different_recipes_answer_as_they_do_alone(tmp_path):
    asked = {"auxiliary_questions": tiny.CATEGORY, "marginal": [0.5, 0.3, 0.2]}
    together = {"members": "shared", "num_members": 2, "distribution": "mean_softmax"}
    members = [
        tiny.distribution("bert", pooling="mean", trunk_layer=1, marginal_share=0.2, freeze_trunk=True, **asked),
        tiny.distribution("roberta", head="mlp", embedding_size=13, dropout=0.1),
        tiny.seedbert("bert", seed=3, trunk_layer=[0, 2], pooling="attention", marginal_share=0.1, **together, **asked),
    ]
    shares = (0.2, 0.0, 0.1)
    plain = []
    for share, member in zip(shares, members, strict=True):
        member.config.marginal_share = 0.0
        plain.append(member(**batch_of("bert")).probs)
        member.config.marginal_share = share
    members[2].save_pretrained(tmp_path / "third")
    model = SeedBert.from_members([*members[:2], tmp_path / "third"], distribution="mean_softmax")
    expected = 0.9 * sum(plain) / 3 + 0.1 * torch.tensor([0.5, 0.3, 0.2])
    model.save_pretrained(tmp_path / "all")
    assert "auto_map" not in json.loads((tmp_path / "all" / "config.json").read_text())["member_configs"][0]
    for one in (model, SeedBert.from_pretrained(tmp_path / "all")):
        found = one(**batch_of("bert"), labels=LABELS)
        torch.testing.assert_close(found.member_logits.softmax(-1), torch.stack(plain, 1), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.probs, expected, rtol=1e-5, atol=1e-6)
        losses = [distribution_loss(probs, LABELS, "kl") for probs in plain]
        torch.testing.assert_close(found.loss, sum(losses) / 3, rtol=1e-4, atol=1e-5)
        assert not any("auxiliary_head" in name for name, _ in one.named_parameters())
    with pytest.raises(ValueError, match="the members are of different kinds, whose attention is not comparable"):
        model(**batch_of("bert"), explain=True)


def test_a_frozen_member_freezes_no_other():
    members = [tiny.distribution("bert", freeze_trunk=True), tiny.distribution("bert", seed=1, head="mlp")]
    model = SeedBert.from_members(members).train()
    learns = [any(weight.requires_grad for weight in member.trunk.parameters()) for member in model.members]
    assert learns == [False, True] and [member.trunk.training for member in model.members] == [False, True]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda configs: [1, 2], "member_configs holds 1; it has a configuration"),
        (lambda configs: [configs[0], {"model_type": "annot-distribution"}], "with model_type and trunk_config"),
        (lambda configs: [configs[0], configs[1] | {"model_type": ["a"]}], r"A member has the model_type \['a'\]"),
        (lambda configs: configs[:1], "There are 1 member_configs"),
        (
            lambda configs: [
                configs[0],
                configs[1]
                | {"questions": [{"name": "emotion", "labels": ["happy", "angry", "sad"]}], "id2label": None},
            ],
            "labels in the same order",
        ),
    ],
)
def test_broken_configurations_of_members_are_said(change, message):
    model = SeedBert.from_members([tiny.distribution("bert"), tiny.distribution("bert", seed=1, head="mlp")])
    values = model.config.to_dict()
    values["member_configs"] = change(values["member_configs"])
    with pytest.raises(ValueError, match=message):
        SeedBert(SeedBertConfig.from_dict(values))


def test_log_mel_members_keep_their_own_standardisation():
    options = tiny.trunk_config("log-mel").to_diff_dict()
    members = [tiny.distribution(), tiny.distribution(trunk=tiny.LogMelConfig(**options | {"mel_mean": [9.0] * 8}))]
    found = SeedBert.from_members(members)(**batch_of("log-mel")).member_logits
    for number, member in enumerate(members):
        torch.testing.assert_close(found[:, number], member(**batch_of("log-mel")).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": "independent"}, "whose members are independent and whose distribution is mean_softmax"),
        (
            {"distribution": "votes"},
            "whose members are shared and whose distribution is votes; one that is a member has",
        ),
    ],
)
def test_an_ensemble_is_a_member_if_it_answers_with_a_mean_over_one_trunk(options, message):
    together = {"members": "shared", "distribution": "mean_softmax"} | options
    with pytest.raises(ValueError, match=message):
        SeedBert.from_members([tiny.distribution("bert"), tiny.seedbert("bert", **together)])


def test_tokenizers_must_be_one(tmp_path):
    folders = save_members(tmp_path, 3)
    assert SeedBert.from_members(folders).config.num_members == 3
    save_tokenizer(folders[1], ["[PAD]", "[UNK]", "b", "a"], model_max_length=20)
    with pytest.raises(ValueError, match="member1 and .*member0 have different tokenizers: vocabulary, model differ"):
        SeedBert.from_members(folders)
    save_tokenizer(folders[1], ["[PAD]", "[UNK]", "a", "b"], model_max_length=10)
    with pytest.raises(ValueError, match="have different tokenizers: longest input differ"):
        SeedBert.from_members(folders)
    (folders[1] / "tokenizer_config.json").unlink()
    with pytest.raises(ValueError, match="member1 holds no tokenizer and .*member0 does"):
        SeedBert.from_members(folders)


def test_a_member_has_one_vote(tmp_path, monkeypatch):
    folders = save_members(tmp_path)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "link").symlink_to(folders[0], target_is_directory=True)
    for other in (str(folders[0]), "member0", "member1/../member0", "link"):
        with pytest.raises(ValueError, match=f"^{other} is the same as .*member0, and a member has one vote"):
            SeedBert.from_members([folders[0], folders[1], other])
    model = tiny.distribution("bert")
    with pytest.raises(ValueError, match="^member 1 is the same as member 0, and a member has one vote"):
        SeedBert.from_members([model, model])
    assert SeedBert.from_members(model).config.num_members == 1


def damage_config(**values):
    def damage(folder):
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | values))

    return damage


def cut_off(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut_off("model.safetensors", 5000), "member1 holds no readable safetensors"),
        (cut_off("model.safetensors", 0), "member1 holds no readable safetensors"),
        (lambda folder: (folder / "model.safetensors").unlink(), "member1 holds no readable safetensors"),
        (cut_off("config.json", 50), "member1/config.json cannot be read"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "member1/config.json cannot be read"),
        (
            lambda folder: (folder / "config.json").write_text("null"),
            "config.json cannot be read .it holds None and no",
        ),
        (damage_config(questions=5), "member1/config.json cannot be read"),
        (damage_config(head="tree"), "member1/config.json cannot be read .head is 'tree'"),
        (damage_config(head="mlp"), "member1 does not fit its configuration: .* weights differ, for instance head"),
        (damage_config(pooling_size=4), "member1 does not fit its configuration: .* for instance embedding"),
        (cut_off("tokenizer.json", 50), "member1 holds a tokenizer that cannot be read"),
        (
            lambda folder: (folder / "tokenizer.json").write_text('{"version": 1}'),
            "member1 holds a tokenizer that cannot be read",
        ),
    ],
)
def test_a_damaged_member_is_named(damage, message, tmp_path):
    folders = save_members(tmp_path)
    damage(folders[1])
    with pytest.raises(ValueError, match=message) as error:
        SeedBert.from_members(folders)
    said = str(error.value)
    assert str(folders[1]) in said and "\n" not in said and said.endswith("; restore this member or train it again.")


def test_assembling_asks_nothing(tmp_path):
    """A process of its own: here the models are registered, and code beside them counts for nothing."""
    script = (
        f"from annot_hf import SeedBert; SeedBert.from_members({[str(folder) for folder in save_members(tmp_path)]})"
    )
    environment = os.environ | {"TRANSFORMERS_VERBOSITY": "warning"}
    done = subprocess.run(
        [sys.executable, "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
        timeout=120,
    )
    said = [line for line in re.split("[\r\n]", done.stdout) if not line.startswith("Loading weights")]  # progress
    assert done.returncode == 0 and not "".join(said).strip()


def test_what_is_no_member_is_said(tmp_path):
    with pytest.raises(ValueError, match="members is empty"):
        SeedBert.from_members([])
    with pytest.raises(ValueError, match="members is None; give a list"):
        SeedBert.from_members(None)
    with pytest.raises(ValueError, match="nowhere is not a checkpoint folder"):
        SeedBert.from_members([tmp_path / "nowhere"])
    with pytest.raises(ValueError, match="Member 0 is a AnnotatorModel"):
        SeedBert.from_members([tiny.annotator()])
    tiny.annotator().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="holds a model of type 'annot-annotator'"):
        SeedBert.from_members([tmp_path])
    tiny.distribution("bert").save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"head": "mlp"}))
    with pytest.raises(ValueError, match="does not fit its configuration: .* weights differ, for instance head"):
        SeedBert.from_members([tmp_path])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"members": "many"}, "members is 'many'; use one of independent, shared, lora"),
        ({"distribution": "mean"}, "distribution is 'mean'; use one of votes, mean_softmax"),
        ({"head": "tree"}, "head is 'tree'; use one of linear, mlp"),
        ({"num_members": 0}, "num_members is 0; it must be at least 1"),
        ({"lora_rank": 0}, "lora_rank is 0; it must be at least 1"),
        ({"members": "lora"}, "there are no adapters for a annot-log-mel trunk; use members='shared'"),
        ({"members": "lora", "trunk_config": GPT2Config()}, "there are no adapters for a gpt2 trunk"),
        ({"members": "lora", "trunk_config": BertConfig(), "lora_layers": 13}, "has 12 transformer layers in use"),
        ({"members": "lora", "trunk_config": BertConfig(), "trunk_layer": 1}, "lora_layers is 2; the trunk has 1"),
        (
            {"members": "lora", "trunk_config": BertConfig(), "trunk_layer": "weighted"},
            "choose one layer by its number",
        ),
    ],
)
def test_bad_options_are_one_clear_sentence(options, message):
    with pytest.raises(ValueError, match=message) as error:
        SeedBertConfig(questions=tiny.CATEGORY, **options)
    assert "\n" not in str(error.value)
