import pytest
import tiny
import torch
from torch import nn
from transformers import (
    AutoModel,
    BertForMaskedLM,
    CLIPConfig,
    GPT2Config,
    LlamaConfig,
    Qwen2AudioConfig,
    T5Config,
    ViTConfig,
    Wav2Vec2ForCTC,
)

from annot_hf.models.modeling_annotator import AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.trunks import MaskedGroupNorm, build_trunk, encode, input_name_of, samples_for

WAVEFORM = ("wavlm", "wavlm-layer", "hubert", "wav2vec2", "data2vec-audio")


def trunk_of(kind):
    torch.manual_seed(0)
    return build_trunk(tiny.trunk_config(kind)).eval()


@pytest.mark.parametrize("kind", [*tiny.TRUNKS, "hubert", "wav2vec2", "data2vec-audio"])
def test_batching_does_not_change_frames(kind):
    trunk, lengths = trunk_of(kind), tiny.lengths(kind)
    for width in (max(lengths), max(lengths) + 37):
        frames, mask = encode(trunk, **tiny.inputs(kind, lengths, width=width))
        assert frames.shape[:2] == mask.shape and mask.dtype == torch.bool
        for row, length in enumerate(lengths):
            batch = {name: value[row : row + 1, :length] for name, value in tiny.inputs(kind, lengths).items()}
            alone, alone_mask = encode(trunk, **batch)
            assert int(mask[row].sum()) == int(alone_mask.sum())
            torch.testing.assert_close(frames[row][mask[row]], alone[alone_mask], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", tiny.TRUNKS)
def test_without_a_mask_everything_is_real(kind):
    trunk, batch = trunk_of(kind), tiny.inputs(kind, [max(tiny.lengths(kind))] * 2)
    frames, mask = encode(trunk, **batch)
    del batch["attention_mask"]
    torch.testing.assert_close(encode(trunk, **batch)[0], frames, rtol=1e-5, atol=1e-6)
    assert mask.all()


@pytest.mark.parametrize("kind", WAVEFORM)
def test_unpadded_frames_are_those_of_the_plain_model(kind):
    trunk = trunk_of(kind)
    plain = AutoModel.from_config(tiny.trunk_config(kind)).eval()
    plain.load_state_dict(trunk.state_dict())
    waves = tiny.inputs(kind, [900, 900])["input_values"]
    expected = plain(waves).last_hidden_state
    torch.testing.assert_close(encode(trunk, input_values=waves)[0], expected, rtol=1e-4, atol=1e-5)


def test_masked_group_norm_is_group_norm_over_the_real_frames():
    plain, masked = nn.GroupNorm(4, 4), MaskedGroupNorm(4, kernel=10, stride=5)
    nn.init.normal_(plain.weight), nn.init.normal_(plain.bias)
    masked.load_state_dict(plain.state_dict())
    frames = torch.randn(2, 4, 19) * 3 + 1
    torch.testing.assert_close(masked(frames), plain(frames), rtol=1e-5, atol=1e-6)  # called outside `encode`
    masked.samples = torch.tensor([100, 45])  # 19 and 8 frames
    torch.testing.assert_close(masked(frames)[0], plain(frames)[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(masked(frames)[1, :, :8], plain(frames[1:, :, :8])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", WAVEFORM)
def test_clips_of_a_few_samples_neither_fail_nor_depend_on_their_batch(kind):
    trunk = trunk_of(kind)
    frames, mask = encode(trunk, **tiny.inputs(kind, [1, 20, 2000]))
    assert mask.sum(1).tolist()[:2] == [1, 1]
    assert frames.isfinite().all()
    alone, _ = encode(trunk, input_values=tiny.inputs(kind, [1, 20])["input_values"][:1, :1])
    torch.testing.assert_close(frames[0, 0], alone[0, 0], rtol=1e-4, atol=1e-5)
    trunk.train()
    for _ in range(5):  # SpecAugment refuses batches shorter than a masked span
        assert encode(trunk, **tiny.inputs(kind, [12, 5]))[0].isfinite().all()


def test_samples_for_frames_is_the_inverse_of_the_library():
    trunk = trunk_of("wavlm")
    for frames in (1, 2, 10):
        samples = torch.tensor([samples_for(trunk.config, frames) - 1, samples_for(trunk.config, frames)])
        assert trunk._get_feat_extract_output_lengths(samples).tolist() == [frames - 1, frames]


@pytest.mark.parametrize("kind", tiny.TRUNKS)
def test_padding_on_the_left_is_refused(kind):
    batch = tiny.inputs(kind, tiny.lengths(kind))
    short = tiny.lengths(kind).index(min(tiny.lengths(kind)))
    batch["attention_mask"][short] = batch["attention_mask"][short].flip(0)
    with pytest.raises(ValueError, match=rf"mask of item {short} of the batch has a 1 after a 0, .*padding_side"):
        encode(trunk_of(kind), **batch)


def test_the_wrong_input_is_named():
    with pytest.raises(ValueError, match=r"A bert trunk takes input_ids, got input_values; call model\(input_ids="):
        encode(trunk_of("bert"), input_values=torch.zeros(1, 500))
    with pytest.raises(ValueError, match="A annot-log-mel trunk takes input_features, got nothing"):
        encode(trunk_of("log-mel"))
    names = ["input_features", "input_values", "input_values", "input_ids"]
    assert [input_name_of(tiny.trunk_config(kind)) for kind in tiny.TRUNKS] == names


@pytest.mark.parametrize("kind", [*WAVEFORM, "bert"])
def test_from_trunk_takes_a_plain_checkpoint_as_it_is(kind, tmp_path):
    torch.manual_seed(3)
    plain = AutoModel.from_config(tiny.trunk_config(kind))
    plain.save_pretrained(tmp_path)
    model = AnnotatorModel.from_trunk(tmp_path, questions=tiny.SCALES, annotators=["a", "b"], **tiny.HEADS)
    loaded, saved = model.trunk.state_dict(), plain.state_dict()
    assert set(saved) - set(loaded) <= {"pooler.dense.weight", "pooler.dense.bias"}
    assert all(torch.equal(loaded[name], saved[name]) for name in loaded)
    assert not model.training and model.config.annotators == ["a", "b"]
    assert model(**tiny.inputs(kind, tiny.lengths(kind))).probs.isfinite().all()


@pytest.mark.parametrize(("kind", "family"), [("bert", BertForMaskedLM), ("wav2vec2", Wav2Vec2ForCTC)])
def test_from_trunk_takes_a_checkpoint_with_a_head(kind, family, tmp_path):
    """Most encoders on the Hub are such: bert-base-uncased, roberta-base, facebook/wav2vec2-base."""
    whole = family(tiny.trunk_config(kind))
    whole.save_pretrained(tmp_path)
    model = DistributionModel.from_trunk(tmp_path, questions=tiny.CATEGORY, **tiny.HEADS)
    expected = whole.base_model.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.trunk.state_dict().items())


def test_a_checkpoint_in_half_precision_is_trained_in_single(tmp_path):
    AutoModel.from_config(tiny.trunk_config("bert")).half().save_pretrained(tmp_path)
    model = DistributionModel.from_trunk(tmp_path, questions=tiny.CATEGORY, **tiny.HEADS)
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("config", [T5Config, ViTConfig, CLIPConfig])
def test_an_unsupported_family_is_one_clear_sentence(config, tmp_path):
    config().save_pretrained(tmp_path)  # at its full size: nothing is built before it is refused
    with pytest.raises(ValueError, match=rf"A {config.model_type} trunk is not supported; use a text encoder") as error:
        DistributionModel.from_trunk(tmp_path, questions=tiny.CATEGORY)
    assert "\n" not in str(error.value)


def test_an_audio_language_model_is_no_trunk(tmp_path):
    Qwen2AudioConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no trunk; set model to qwen2-audio, or use DistributionQwen2Audio.from_lalm"):
        DistributionModel.from_trunk(tmp_path, questions=tiny.CATEGORY)


def test_a_checkpoint_that_is_not_there_or_lacks_the_trunk_is_one_clear_sentence(tmp_path):
    with pytest.raises(ValueError, match="There is no checkpoint .*nowhere"):
        DistributionModel.from_trunk(tmp_path / "nowhere", questions=tiny.CATEGORY)
    tiny.trunk_config("bert").save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="There is no checkpoint"):
        DistributionModel.from_trunk(tmp_path, questions=tiny.CATEGORY)
    (tmp_path / "model.safetensors").write_bytes(b"{}")
    with pytest.raises(ValueError, match="holds no readable safetensors"):
        DistributionModel.from_trunk(tmp_path, questions=tiny.CATEGORY)
    for text in ("null", "[1]", "{", '{"model_type": "unheard-of"}', "5"):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(ValueError, match=r"config\.json of .* cannot be read|There is no checkpoint") as error:
            DistributionModel.from_trunk(tmp_path, questions=tiny.CATEGORY)
        assert "\n" not in str(error.value)
    AutoModel.from_config(tiny.trunk_config("wavlm")).save_pretrained(tmp_path)
    tiny.trunk_config("bert").save_pretrained(tmp_path)  # another model's weights
    with pytest.raises(ValueError, match=r"lacks \d+ weights of a bert, for instance embeddings"):
        DistributionModel.from_trunk(tmp_path, questions=tiny.CATEGORY)


@pytest.mark.parametrize(
    "config", [GPT2Config(n_embd=16, n_layer=1, n_head=2), LlamaConfig(vocab_size=20, **tiny.TRANSFORMER)]
)
def test_other_text_models_serve_too(config):
    model = tiny.distribution(trunk=config)
    batch = tiny.inputs("bert", [5, 9])
    batch["input_ids"] %= 20
    together = model(**batch).probs
    alone = model(**{name: value[:1, :5] for name, value in batch.items()}).probs
    torch.testing.assert_close(together[:1], alone, rtol=1e-4, atol=1e-5)
