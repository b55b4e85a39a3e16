"""Models and batches small enough that a test takes milliseconds."""

import torch
from transformers import (
    BertConfig,
    CamembertConfig,
    Data2VecAudioConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    HubertConfig,
    ModernBertConfig,
    MPNetConfig,
    PreTrainedConfig,
    RobertaConfig,
    UniSpeechConfig,
    UniSpeechSatConfig,
    Wav2Vec2Config,
    WavLMConfig,
    WhisperConfig,
    XLMRobertaConfig,
)

from annot_hf.models.configuration_annotator import AnnotatorConfig
from annot_hf.models.configuration_distribution import DistributionConfig
from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.configuration_seedbert import SeedBertConfig
from annot_hf.models.modeling_annotator import AnnotatorModel
from annot_hf.models.modeling_distribution import DistributionModel
from annot_hf.models.modeling_seedbert import SeedBert

torch.set_num_threads(1)

# Recipe keys of a speech model of some thousand weights
SMALL = {
    "augmentation.copies": 0,
    "conv_channels": [4, 4],
    "conv_strides": [2, 2],
    "hidden_size": 8,
    "pooling_size": 4,
    "embedding_size": 6,
    "per_device_train_batch_size": 2,
    "use_cpu": True,
    "report_to": "none",
    "disable_tqdm": True,
}
SCALES = [{"name": "activation", "low": 1, "high": 5}, {"name": "valence", "low": 1, "high": 5}]
CATEGORY = [{"name": "emotion", "labels": ["angry", "happy", "sad"]}]
HEADS = {"pooling_size": 8, "embedding_size": 12}
# frames of clips; the second has more than a tiny Whisper has positions for
MEL = {"log-mel": [40, 64, 23], "whisper": [40, 95, 23]}
TRUNKS = ("log-mel", "wavlm", "wavlm-layer", "bert")

TRANSFORMER = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
_WAVEFORM = TRANSFORMER | {
    "conv_dim": (16, 16, 16),
    "conv_kernel": (10, 3, 3),
    "conv_stride": (5, 2, 2),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 16,
    "num_conv_pos_embedding_groups": 2,
    "layerdrop": 0.0,
}


_WAVEFORM_FAMILIES = {
    "wavlm": WavLMConfig,
    "hubert": HubertConfig,
    "wav2vec2": Wav2Vec2Config,
    "unispeech": UniSpeechConfig,
    "unispeech-sat": UniSpeechSatConfig,
    "data2vec-audio": Data2VecAudioConfig,
}
_TEXT_FAMILIES = {
    "bert": BertConfig,
    "roberta": RobertaConfig,
    "xlm-roberta": XLMRobertaConfig,
    "camembert": CamembertConfig,
    "electra": ElectraConfig,
    "mpnet": MPNetConfig,
    "distilbert": DistilBertConfig,
}
TEXT = tuple(_TEXT_FAMILIES)
NO_LAYERS = ("modernbert", "deberta-v2")  # text trunks that give no choice of layers
WAVEFORM = (*_WAVEFORM_FAMILIES, "wavlm-layer", "hubert-layer", "wav2vec2-layer")


def trunk_config(kind: str, **options) -> PreTrainedConfig:
    """A tiny trunk: a key of `MEL`, one of `WAVEFORM` (group norm, or "...-layer": the stable variant) or one of `TEXT`."""
    if kind == "log-mel":
        return LogMelConfig(num_mel_bins=8, conv_channels=(4, 4), conv_strides=(2, 1), hidden_size=16, mel_mean=10.0)
    if kind == "whisper":
        sizes = {"encoder_layers": 2, "encoder_attention_heads": 2, "encoder_ffn_dim": 32, "max_source_positions": 24}
        decoder = {"decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 32, "max_target_positions": 8}
        special = {f"{name}_token_id": number for name, number in {"pad": 0, "bos": 1, "eos": 2}.items()}
        own = {"d_model": 16, "num_mel_bins": 8, "vocab_size": 50, "decoder_start_token_id": 1}
        return WhisperConfig(**own | sizes | decoder | special | options)
    if kind == "distilbert":
        return DistilBertConfig(vocab_size=50, dim=16, n_layers=2, n_heads=2, hidden_dim=32, **options)
    if kind == "modernbert":
        names = {"pad": 0, "bos": 1, "cls": 1, "eos": 2, "sep": 2}
        special = {f"{name}_token_id": number for name, number in names.items()}
        layers = {"num_hidden_layers": 3, "global_attn_every_n_layers": 3, "local_attention": 4}
        return ModernBertConfig(**{"vocab_size": 50} | TRANSFORMER | special | layers | options)
    if kind == "deberta-v2":
        relative = {"relative_attention": True, "position_biased_input": False, "pos_att_type": ["p2c", "c2p"]}
        return DebertaV2Config(**{"vocab_size": 50} | TRANSFORMER | relative | options)
    if kind in _TEXT_FAMILIES:
        return _TEXT_FAMILIES[kind](**{"vocab_size": 50} | TRANSFORMER | options)
    family = kind.removesuffix("-layer")
    if family != kind:
        options = {"feat_extract_norm": "layer", "do_stable_layer_norm": True} | options
    return _WAVEFORM_FAMILIES[family](**_WAVEFORM | options)


def annotator(kind: str = "log-mel", *, seed: int = 0, trunk=None, **options) -> AnnotatorModel:
    """An annotator model over scales with three raters, in evaluation mode."""
    torch.manual_seed(seed)
    options = {
        "questions": SCALES,
        "annotators": ["ann", "bob", "cy"],
        "trunk_config": trunk or trunk_config(kind),
    } | options
    return AnnotatorModel(AnnotatorConfig(**HEADS | options)).eval()


def distribution(kind: str = "log-mel", *, seed: int = 0, trunk=None, **options) -> DistributionModel:
    """A distribution model over three labels, in evaluation mode."""
    torch.manual_seed(seed)
    options = {"questions": CATEGORY, "trunk_config": trunk or trunk_config(kind)} | options
    return DistributionModel(DistributionConfig(**HEADS | options)).eval()


def seedbert(kind: str = "bert", *, seed: int = 0, trunk=None, **options) -> SeedBert:
    """Three members that vote on three labels, in evaluation mode."""
    torch.manual_seed(seed)
    options = {"questions": CATEGORY, "trunk_config": trunk or trunk_config(kind), "num_members": 3} | options
    return SeedBert(SeedBertConfig(**HEADS | options)).eval()


def inputs(kind: str, lengths: list[int], *, width: int | None = None, seed: int = 0) -> dict[str, torch.Tensor]:
    """A batch of items of these lengths, padded to the longest or to `width`; padding holds rubbish, not zeros.

    An item depends on its place in the batch and its length only, so that a longer padding keeps it.
    """
    width = width or max(lengths)
    mask = (torch.arange(width) < torch.tensor(lengths)[:, None]).long()
    rows = []
    for row, length in enumerate(lengths):
        draw = torch.Generator().manual_seed(1000 * seed + row)
        if kind in (*TEXT, *NO_LAYERS):
            value, rest = torch.randint(1, 50, (length,), generator=draw), torch.full((width - length,), 7)
        elif kind == "whisper":
            value, rest = torch.randn(8, length, generator=draw), torch.full((8, width - length), 99.0)
        elif kind == "log-mel":
            value = 10 + 4 * torch.randn(length, 8, generator=draw)
            rest = torch.full((width - length, 8), 99.0)
        else:
            value, rest = torch.randn(length, generator=draw), torch.full((width - length,), 9.0)
        rows.append(torch.cat([value, rest], -1 if kind == "whisper" else 0))
    mel = kind in ("log-mel", "whisper")
    name = "input_ids" if kind in (*TEXT, *NO_LAYERS) else "input_features" if mel else "input_values"
    return {name: torch.stack(rows), "attention_mask": mask}


def lengths(kind: str) -> list[int]:
    """Three unequal lengths that suit a trunk."""
    return [5, 9, 2] if kind in (*TEXT, *NO_LAYERS) else MEL.get(kind, [700, 1000, 431])


def padding_factor(lengths, order, batch_size: int) -> float:
    """Padded over real length of an epoch; 1 is no padding at all."""
    lengths = torch.as_tensor(lengths)[list(order)]
    starts = range(0, len(lengths), batch_size)
    batches = [lengths[start : start + batch_size] for start in starts]
    return float(sum(batch.max() * len(batch) for batch in batches) / lengths.sum())
