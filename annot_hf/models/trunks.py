"""Build and call trunks: our log-mel model, Whisper, waveform encoders of the wav2vec 2.0 family, and text encoders.

Hidden state 0 enters the first transformer layer, k leaves the k-th, as in the library's `output_hidden_states`.
"""

import copy
import functools
import hashlib
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    MODEL_MAPPING,
    AutoConfig,
    AutoModel,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    SequenceFeatureExtractor,
)
from transformers.utils import ModelOutput
from transformers.utils.hub import resolve_revision

from .access import not_readable, said
from .checks import check_attention
from .configuration_log_mel import LogMelConfig
from .modeling_log_mel import LogMelModel
from .waves import log_mel
from .whisper import WhisperTrunk, whisper_encoder_of

DATA2VEC = "data2vec-audio"
WAVEFORM_TRUNKS = ("wavlm", "hubert", "wav2vec2", "unispeech", "unispeech-sat", DATA2VEC)
WHISPER = "whisper"
# Text encoders without a norm after the last layer, so that the first k layers are a complete encoder.
LAYERED_TEXT_TRUNKS = ("bert", "roberta", "xlm-roberta", "camembert", "distilbert", "electra", "mpnet")
# Their positions start after the index of the padding token.
_ROBERTAS = ("roberta", "xlm-roberta", "xlm-roberta-xl", "roberta-prelayernorm", "camembert")
OFFSET_TEXT_TRUNKS = (*_ROBERTAS, "mpnet", "longformer")
# The input of an audio-language model is a clip and a question about it.
PROMPTED = "prompted_audio"
# tokens; tokenizers without a limit have 10^30, which truncation does not take
UNLIMITED = 2**31 - 1
PROMPTED_TRUNKS = ("qwen2_audio", "annot-distribution-qwen2-audio")
WEIGHTED = "weighted"
# Files that determine what a checkpoint computes.
_CHECKPOINT = (".safetensors", ".bin", ".json", ".txt", ".model")
# Entries of a configuration that state its origin and do not affect the model.
_GIVE = "give a Hub id or a checkpoint folder"
PROVENANCE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures", "auto_map")


def trunk_config_from(config: dict | PreTrainedConfig | None) -> PreTrainedConfig:
    """A trunk's configuration from its serialised form; the log-mel one needs no registration."""
    if config is None:
        return LogMelConfig()
    if isinstance(config, PreTrainedConfig):
        return config
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError(
            f"trunk_config is {reprlib.repr(config)}; give a configuration, or its dictionary with model_type."
        )
    config = dict(config)
    kind = config.pop("model_type")
    return LogMelConfig(**config) if kind == LogMelConfig.model_type else AutoConfig.for_model(kind, **config)


def input_name_of(config: PreTrainedConfig) -> str:
    """The input of the trunk: "input_features" (mel), "input_values" (a waveform), "input_ids" (text) or `PROMPTED`."""
    if config.model_type in PROMPTED_TRUNKS:
        return PROMPTED
    if config.model_type in (LogMelConfig.model_type, WHISPER):
        return "input_features"
    return "input_values" if config.model_type in WAVEFORM_TRUNKS else "input_ids"


def most_tokens(config: PreTrainedConfig) -> int | None:
    """How many positions a text trunk has; None if its configuration sets no limit."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None or positions < 1:
        return None
    return positions - config.pad_token_id - 1 if config.model_type in OFFSET_TEXT_TRUNKS else positions


def token_limit(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int:
    """Most tokens of a text, special ones included, that tokenizer and trunk both take."""
    return min(tokenizer.model_max_length, most_tokens(config) or UNLIMITED, UNLIMITED)


def trunk_input(config: PreTrainedConfig, extractor: SequenceFeatureExtractor, wave: np.ndarray) -> np.ndarray:
    """What a speech trunk takes of a wave `(time,)` at the extractor's rate: a wave too, or mel frames `(T, bands)`."""
    if input_name_of(config) == "input_features":
        return log_mel(wave, extractor)
    return extractor(wave, sampling_rate=extractor.sampling_rate, return_tensors="np")["input_values"][0]


def check_layer(config: PreTrainedConfig, layer: int | str | list[int] | None) -> None:
    """Raise a ValueError unless a trunk of this configuration has the layer: None (its last), 0 to L, some, or "weighted"."""
    if layer is None:
        return
    families = (*WAVEFORM_TRUNKS, WHISPER, *LAYERED_TEXT_TRUNKS)
    if config.model_type not in families:
        raise ValueError(
            f"trunk_layer is {layer!r}, and a trunk of type {config.model_type} has no choice of layers; leave trunk_layer "
            f"out, or use one of {', '.join(families)}."
        )
    chosen = layer if isinstance(layer, list) else [layer]
    numbered = all(type(one) is int and 0 <= one <= config.num_hidden_layers for one in chosen)
    if layer != WEIGHTED and not (numbered and chosen and chosen == sorted(set(chosen))):
        raise ValueError(
            f"trunk_layer is {layer!r}; this {config.model_type} trunk has hidden states 0 to {config.num_hidden_layers}: "
            f"give one of these numbers, a list of some in rising order, {WEIGHTED!r} for a learned weighting of all, or "
            "nothing for the last."
        )


def build_trunk(
    config: PreTrainedConfig, layer: int | str | list[int] | None = None, *, skip_layers: bool = True
) -> PreTrainedModel:
    """A trunk with fresh weights from the configuration of the whole trunk, whose output is the hidden state `layer`.

    None is the trunk's own output. A number k leaves only the first k transformer layers, a list those up to its last.
    "weighted" is for `encode_layers`: a whole trunk. It and a trunk of several layers skip none in training (LayerDrop), as if
    `skip_layers` were False.
    """
    check_layer(config, layer)
    check_attention(config)
    if config.model_type == LogMelConfig.model_type:
        return LogMelModel(config)
    # Look at the class before building it: the model may be too large for this machine.
    family = MODEL_MAPPING.get(type(config), None)
    takes = getattr(family, "main_input_name", None)
    if input_name_of(config) == PROMPTED:
        raise ValueError(
            f"A {config.model_type} is a model of its own and no trunk; set model to qwen2-audio, or use "
            "DistributionQwen2Audio.from_lalm."
        )
    plain = config.model_type == WHISPER or not config.is_encoder_decoder
    if takes != input_name_of(config) or not plain or not hasattr(config, "hidden_size"):
        raise ValueError(
            f"A {config.model_type} trunk is not supported; use a text encoder such as bert, or one of "
            f"{', '.join(WAVEFORM_TRUNKS)}, {WHISPER}, or the log-mel trunk."
        )
    config = copy.deepcopy(config)
    # its convolutions would hear padding, and its frames are no hidden state
    config.add_adapter = False
    if layer == WEIGHTED or isinstance(layer, list) or not skip_layers:
        # A layer that is skipped gives no hidden state.
        setattr(config, "encoder_layerdrop" if config.model_type == WHISPER else "layerdrop", 0.0)
    if layer not in (None, WEIGHTED):
        config.num_hidden_layers = layer[-1] if isinstance(layer, list) else layer
    # not that of the checkpoint, which may be half precision
    dtype = torch.get_default_dtype()
    if config.model_type == WHISPER:
        trunk = WhisperTrunk._from_config(config, dtype=dtype)
    else:
        trunk = AutoModel.from_config(config, dtype=dtype)
    if getattr(trunk, "pooler", None) is not None:
        # Nothing here reads a text encoder's pooler, and DDP stops at weights without a gradient.
        trunk.pooler = None
    # This norm belongs to the whole trunk's output and to none of its hidden states.
    if layer is not None and config.model_type == WHISPER:
        trunk.layer_norm = nn.Identity()
    # A checkpoint of data2vec may have keys of wav2vec 2.0, which its model does not read.
    elif config.model_type == DATA2VEC:
        return trunk
    elif layer is not None and getattr(config, "do_stable_layer_norm", False):
        trunk.encoder.layer_norm = nn.Identity()
    if getattr(config, "feat_extract_norm", None) == "group":
        first = trunk.feature_extractor.conv_layers[0]
        first.layer_norm = MaskedGroupNorm(config.conv_dim[0], config.conv_kernel[0], config.conv_stride[0])
    return trunk


def read_trunk_config(source: str, revision: str | None = None) -> PreTrainedConfig:
    """Configuration of a plain checkpoint, a Hub id or folder; a ValueError if there is none, or it cannot be read."""
    try:
        return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    except OSError as error:
        raise not_readable(source, error, revision, _GIVE) from error
    except Exception as error:
        # Libraries raise many kinds of errors here.
        raise ValueError(
            f"The config.json of {str(source)!r} cannot be read ({said(error)}); give a checkpoint of a model "
            "that transformers knows."
        ) from error


def load_trunk_weights(trunk: PreTrainedModel, source: str, revision: str | None = None) -> None:
    """Give a trunk the weights of a plain checkpoint; a ValueError if it lacks any that the trunk was built with."""
    try:
        if trunk.config.model_type == WHISPER:
            encoder, info = whisper_encoder_of(source, revision)
        else:
            # The library's own class also reads checkpoints with a head ("bert.encoder...").
            encoder, info = AutoModel.from_pretrained(
                source, output_loading_info=True, trust_remote_code=False, revision=revision
            )
    except OSError as error:
        raise not_readable(source, error, revision, _GIVE) from error
    except SafetensorError as error:
        raise ValueError(f"{str(source)!r} holds no readable safetensors ({said(error)}); restore it.") from error
    # `build_trunk` leaves unused layers out.
    trunk.load_state_dict(encoder.state_dict(), strict=False)
    # The mask embedding may stay untrained: only training uses it.
    missing = sorted(set(trunk.state_dict()) & (set(info["missing_keys"]) - {"masked_spec_embed"}))
    if missing:
        raise ValueError(
            f"{source} lacks {len(missing)} weights of a {trunk.config.model_type}, for instance {missing[0]}; give a "
            "checkpoint of the plain encoder."
        )


def weights_digest(source: str, revision: str | None = None) -> str | None:
    """SHA-256 of a checkpoint folder's files, or a checkpoint's commit on the Hub; None where there is no such checkpoint."""
    folder = Path(source)
    if not folder.is_dir():
        found = revision if hasattr(revision, "resolved") else resolve_revision(source, revision)
        return getattr(found, "resolved", found)
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.suffix in _CHECKPOINT and path.is_file()):
        # the time of change cannot be set
        about = path.stat()
        digest.update(f"{path.name} {_file_digest(path, about.st_ino, about.st_size, about.st_ctime_ns)}\n".encode())
    return digest.hexdigest()


@functools.lru_cache(maxsize=256)
def _file_digest(path: Path, *version: int) -> str:
    """SHA-256 of a file, computed once a process for each version of it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def encode(trunk: PreTrainedModel, **inputs: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Frames `(B, T, H)` of the trunk's last layer and True where they are real `(B, T)`; for inputs see `call_trunk`."""
    output, mask = call_trunk(trunk, **inputs)
    return output.last_hidden_state, mask


def encode_layers(
    trunk: PreTrainedModel, **inputs: torch.Tensor | None
) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Hidden states 0 to L, each `(B, T, H)`, of a trunk built with "weighted" or a list, and their mask `(B, T)`."""
    output, mask = call_trunk(trunk, output_hidden_states=True, **inputs)
    return output.hidden_states, mask


def transformer_layers(trunk: PreTrainedModel) -> nn.ModuleList | None:
    """The transformer layers of a trunk, the lowest first, or None if there are none."""
    encoder = getattr(trunk, "encoder", getattr(trunk, "transformer", None))
    return getattr(encoder, "layers", getattr(encoder, "layer", getattr(trunk, "layers", None)))


def call_trunk(
    trunk: PreTrainedModel,
    *,
    input_features: torch.Tensor | None = None,
    input_values: torch.Tensor | None = None,
    input_ids: torch.Tensor | None = None,
    attention_mask: torch.Tensor | None = None,
    token_type_ids: torch.Tensor | None = None,
    **options: bool,
) -> tuple[ModelOutput, torch.Tensor]:
    """The trunk's own output, and True where its frames are real `(B, T)`; positions are counted from the left."""
    name = input_name_of(trunk.config)
    given = {"input_features": input_features, "input_values": input_values, "input_ids": input_ids}
    if given[name] is None:
        present = [key for key, value in given.items() if value is not None]
        raise ValueError(
            f"A {trunk.config.model_type} trunk takes {name}, got {' and '.join(present) or 'nothing'}; call "
            f"model({name}=..., attention_mask=...)."
        )
    if attention_mask is not None:
        late = (attention_mask[:, 1:].bool() & ~attention_mask[:, :-1].bool()).any(1)
        if late.any():
            raise ValueError(
                f"The attention mask of item {int(late.nonzero()[0])} of the batch has a 1 after a 0, and padding comes last; "
                'set padding_side of the tokenizer or feature extractor to "right".'
            )
    if name == "input_features":
        output = trunk(input_features, attention_mask=attention_mask, **options)
        return output, output.frame_mask
    if attention_mask is None:
        attention_mask = torch.ones(given[name].shape[:2], dtype=torch.long, device=given[name].device)
    if name == "input_ids":
        if token_type_ids is not None:
            options["token_type_ids"] = token_type_ids
        return trunk(input_ids=input_ids, attention_mask=attention_mask, **options), attention_mask.bool()
    # SpecAugment needs `mask_time_length` frames per batch, and every clip needs one frame; silence pads to both.
    lacking = samples_for(trunk.config, trunk.config.mask_time_length) - input_values.shape[1]
    input_values = nn.functional.pad(input_values * attention_mask, (0, max(lacking, 0)))
    samples = attention_mask.sum(1).clip(min=samples_for(trunk.config, 1))
    attention_mask = (torch.arange(input_values.shape[1], device=samples.device) < samples[:, None]).long()
    lengths = trunk._get_feat_extract_output_lengths(samples)
    for module in trunk.modules():
        if isinstance(module, MaskedGroupNorm):
            module.samples = samples
    with silent_padding(trunk, lengths):
        output = trunk(input_values, attention_mask=attention_mask, **options)
    return output, torch.arange(output.last_hidden_state.shape[1], device=lengths.device) < lengths[:, None]


def samples_for(config: PreTrainedConfig, frames: int) -> int:
    """Samples that a waveform trunk's convolutions turn into `frames` frames."""
    for kernel, stride in zip(reversed(config.conv_kernel), reversed(config.conv_stride), strict=True):
        frames = (frames - 1) * stride + kernel
    return frames


@contextmanager
def silent_padding(trunk: PreTrainedModel, lengths: torch.Tensor) -> Iterator[None]:
    """Within it, data2vec's stacked position convolutions take zeros beyond the frames of each clip, `lengths` `(B,)`.

    The library zeroes them before the first alone, so the others would mix what the padding became into real frames, and a
    clip's prediction would depend on the clips it is batched with. Other trunks stay as they are.
    """

    def silence(convolution: nn.Module, args: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
        real = torch.arange(args[0].shape[-1], device=args[0].device) < lengths[:, None]
        return (args[0] * real[:, None],)

    stacked = trunk.encoder.pos_conv_embed.layers if trunk.config.model_type == DATA2VEC else ()
    hooks = [convolution.register_forward_pre_hook(silence) for convolution in stacked]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


class MaskedGroupNorm(nn.GroupNorm):
    """Group norm (one group per channel) over the real frames of each clip only.

    The base models of the wav2vec 2.0 family normalise their first convolution over time; over padding too, a clip's
    prediction would depend on the clips it is batched with. Parameters have the names of the layer it replaces.
    """

    # real samples of each clip, which `call_trunk` sets before every call
    samples: torch.Tensor | None = None

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels)
        self.kernel, self.stride = kernel, stride

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Normalise `(B, C, T)`; frames that reach beyond a clip's end are ignored and become 0."""
        total, lengths = hidden_states.shape[-1], []
        # None where someone called the trunk directly.
        if self.samples is not None:
            lengths = ((self.samples - self.kernel) // self.stride + 1).clip(1, total).tolist()
        if min(lengths, default=total) == total:
            return super().forward(hidden_states)
        # Clip by clip with the library's kernel, which is several times faster than a masked mean and variance.
        normed = [
            nn.functional.pad(super(MaskedGroupNorm, self).forward(clip[None, :, :length]), (0, total - length))
            for clip, length in zip(hidden_states, lengths, strict=True)
        ]
        return torch.cat(normed)
