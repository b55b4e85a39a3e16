"""Memory of one training step of `DistributionQwen2Audio` with LoRA on one GPU, worked out without one.

Parameters are counted on the architecture itself, without data. What autograd keeps of a layer and of the head is counted on
the real code, for one layer of the real width and few positions, in autocast to bfloat16, and scaled to all positions.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import Qwen2AudioConfig

from annot_hf.models.adapters import add_lora
from annot_hf.models.configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio
from annot_hf.training.inputs import AUDIO_TOKENS

QUESTIONS = [{"name": "emotion", "labels": ["angry", "happy", "neutral", "sad"]}]
FRAMES = 1500  # of the audio tower, for 30 s
PROMPT_TOKENS = 70
FEW = 64  # positions that are really computed
GB = 1e9


def shape_7b(layers: int = 32, encoder_layers: int = 32) -> Qwen2AudioConfig:
    """The shape of Qwen2-Audio-7B; the library's defaults differ from it in vocabulary and width of the MLP."""
    audio = {"model_type": "qwen2_audio_encoder", "encoder_layers": encoder_layers}
    text = {"model_type": "qwen2", "vocab_size": 156_032, "intermediate_size": 11_008, "max_position_embeddings": 8192}
    return Qwen2AudioConfig(audio_config=audio, text_config=text | {"num_hidden_layers": layers})


def tiny_shape() -> Qwen2AudioConfig:
    """A shape to run the code with on a CPU."""
    audio = {"model_type": "qwen2_audio_encoder", "encoder_layers": 2, "d_model": 32, "encoder_attention_heads": 4}
    text = {
        "model_type": "qwen2",
        "vocab_size": 200,
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
    }
    heads = {"num_attention_heads": 8, "num_key_value_heads": 8}
    return Qwen2AudioConfig(
        audio_config=audio | {"encoder_ffn_dim": 64}, text_config=text | heads, audio_token_index=199
    )


@dataclass(frozen=True)
class Counts:
    """Numbers of parameters."""

    audio_tower: int
    projector: int
    language_model: int
    output_layer: int
    head: int
    adapters: int

    @property
    def plain(self) -> int:
        """Those of the plain checkpoint."""
        return self.audio_tower + self.projector + self.language_model + self.output_layer


def counts(shape: Qwen2AudioConfig) -> Counts:
    """Parameters of the model and its adapters, counted without data."""
    with torch.device("meta"):
        model = DistributionQwen2Audio(DistributionQwen2AudioConfig(lalm_config=shape, questions=QUESTIONS))
        core = model.lalm.model
        parts = [core.audio_tower, core.multi_modal_projector, core.language_model, model.distribution_head]
        tower, projector, language, head = (sum(weight.numel() for weight in part.parameters()) for part in parts)
        adapted = add_lora(model)
    adapters = sum(weight.numel() for name, weight in adapted.named_parameters() if "lora_" in name)
    text = shape.text_config
    return Counts(tower, projector, language, text.vocab_size * text.hidden_size, head, adapters)


def kept_bytes(shape: Qwen2AudioConfig, batch: int, tokens: int) -> tuple[int, int]:
    """Bytes that autograd keeps of one decoder layer with adapters, and of the head, for `(batch, tokens)`."""
    one = shape.to_dict()
    one["text_config"] |= {"num_hidden_layers": 1, "vocab_size": 256}
    one["audio_config"] |= {"encoder_layers": 1}
    one["text_config"].pop("layer_types", None)
    config = DistributionQwen2AudioConfig(lalm_config=Qwen2AudioConfig(**one), questions=QUESTIONS)
    model = DistributionQwen2Audio(config)
    model.lalm.to(torch.bfloat16)
    add_lora(model).train()
    width = config.hidden_size
    layer = model.lalm.model.language_model.layers[0]
    found = []
    for few in (FEW, 2 * FEW):
        states = torch.randn(1, few, width, dtype=torch.bfloat16, requires_grad=True)
        turn = torch.zeros(1, few, width // config.lalm_config.text_config.num_attention_heads, dtype=torch.bfloat16)
        mask = torch.ones(1, few, dtype=torch.bool)
        in_layer = _kept(model, lambda x=states, t=turn: layer(x, position_embeddings=(t, t)))
        in_head = _kept(model, lambda x=states, m=mask: model.distribution_head(x, m))
        found.append((in_layer, in_head))
    # what is kept whatever the positions, such as weights in bfloat16, and what grows with them
    more = batch * tokens / FEW - 1
    in_layer, in_head = (round(one + (two - one) * more) for one, two in zip(*found, strict=True))
    return in_layer, in_head


def _kept(model: nn.Module, call: object) -> int:
    """Bytes of the storages that the backward pass of `call` needs, weights aside."""
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    sizes: dict[int, int] = {}
    alive = []  # so that no storage takes the place of another

    def keep(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage._cdata not in weights:
            sizes[storage._cdata] = storage.nbytes()
            alive.append(value)
        return value

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value), torch.autocast("cpu", torch.bfloat16):
        call()
    return sum(sizes.values())


def estimate(shape: Qwen2AudioConfig, batch: int = 8, seconds: float = 30.0) -> dict[str, float]:
    """Bytes of a training step by what they hold: LoRA in bfloat16, activation checkpointing, AdamW.

    Args:
        shape: Shape of the Qwen2-Audio.
        batch: Clips of a micro-batch.
        seconds: Length of the longest (s); its 25 tokens a second and those of the prompt are what all are padded to.
    """
    found, text, audio = counts(shape), shape.text_config, shape.audio_config
    tokens = round(AUDIO_TOKENS * seconds) + PROMPT_TOKENS
    positions = batch * tokens
    in_layer, in_head = kept_bytes(shape, batch, tokens)
    frozen = found.audio_tower + found.projector + found.language_model
    tower = batch * FRAMES * 2 * (2 * audio.encoder_ffn_dim + 4 * audio.d_model)
    return {
        "weights, bfloat16": 2 * frozen,
        "adapters: weights, gradients, AdamW, float32": 16 * found.adapters,
        "head: the same, and the copy that peft keeps": 20 * found.head,
        "inputs of the checkpointed layers": 2 * positions * text.hidden_size * text.num_hidden_layers,
        # the forward pass of the audio tower is over, and its memory free, when one layer is computed again
        "the largest of: one layer again, the head, the audio tower": max(
            in_layer + 2 * 3 * positions * text.intermediate_size, in_head, tower
        ),
    }


def print_estimate(shape: Qwen2AudioConfig, batch: int, seconds: float) -> float:
    """Print the table and give the sum in bytes."""
    parts = estimate(shape, batch, seconds)
    for name, size in parts.items():
        print(f"{size / GB:8.2f} GB  {name}")
    total = sum(parts.values())
    print(f"{total / GB:8.2f} GB  in all, batch {batch}, {seconds:g} s; the CUDA context and fragments come on top")
    return total


if __name__ == "__main__":
    print(counts(shape_7b()))
    for size in (8, 4, 1):
        print_estimate(shape_7b(), size, 30.0)
