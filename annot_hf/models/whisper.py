"""Whisper's encoder (Radford et al. 2022, arXiv 2212.04356) at the length of the clip, instead of always 30 seconds."""

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from .outputs import TrunkOutput

# Where the loudest mel value of every clip is put, in the extractor's units (4 in log10); usual for speech.
PEAK = 1.5
# Share of a window that it has in common with the next one.
OVERLAP = 1 / 3
# A whole model's encoder, and that of an audio-classification model; the decoder is never read.
ENCODER_KEYS = {r"^(model\.)?encoder\.": ""}


class WhisperTrunk(WhisperEncoder):
    """Encodes only a clip's own frames: position embeddings are cut to its length, and padding changes nothing.

    A clip's level does not matter: its mel frames are shifted so that the loudest value is always the same, and the extractor
    has already raised what lies 8 (in log10) below it. Clips that are longer than the positions are encoded in windows that
    overlap by a third; each frame is taken from the window in which it has more around it.
    """

    # of a whole model, or of one for classification
    _keys_to_ignore_on_load_unexpected = (r"decoder\.", r"proj_out\.", r"projector\.", r"classifier\.", "layer_weights")

    def forward(
        self,
        input_features: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        output_hidden_states: bool = False,
    ) -> TrunkOutput:
        """Frames `(B, ceil(T / 2), H)` of log-mel features `(B, bands, T)` and their mask; padding is 0.

        `attention_mask` is 1 where a mel frame `(B, T)` or a sample is real; all are when None. `hidden_states`, on request,
        are the input of the first layer and the output of each, without the last norm.

        Raises:
            ValueError: An item has no real frame, or the mask has fewer columns than there are frames.
        """
        mask = torch.ones_like(input_features[:, 0]).bool() if attention_mask is None else attention_mask.bool()
        if mask.shape[1] < input_features.shape[2]:
            raise ValueError(
                f"attention_mask has {mask.shape[1]} columns for {input_features.shape[2]} mel frames; give one of the "
                "frames or of the samples, as the feature extractor does."
            )
        # the extractor gives a mask of samples unless it is asked for one of frames
        mask = mask[:, :: max(mask.shape[1] // max(input_features.shape[2], 1), 1)][:, : input_features.shape[2]]
        lengths = mask.sum(1).tolist()
        if 0 in lengths:
            raise ValueError(
                f"Item {lengths.index(0)} of input_features {tuple(input_features.shape)} has no mel frame whose "
                "attention_mask is 1; leave empty clips out."
            )
        # what is padding everywhere, as in the extractor's 30 seconds, costs nothing
        width = max(lengths)
        mask, features = mask[:, :width], input_features[:, :, :width]
        peak = features.masked_fill(~mask[:, None], -torch.inf).amax((1, 2), keepdim=True)
        frames = torch.where(mask[:, None], features - peak + PEAK, 0.0)
        frames = nn.functional.gelu(self.conv1(frames)) * mask[:, None]
        frames = nn.functional.gelu(self.conv2(frames)).transpose(1, 2)
        mask = mask[:, ::2]
        windows = _Windows(mask, self.max_source_positions)
        states = [windows.cut(frames) + self.embed_positions.weight[: windows.width]]
        hidden = nn.functional.dropout(states[0], p=self.dropout, training=self.training)
        attended = create_bidirectional_mask(self.config, hidden, windows.mask.long())
        for layer in self.layers:
            if not self.training or self.layerdrop == 0 or torch.rand(()) >= self.layerdrop:
                hidden = layer(hidden, attended)
            states.append(hidden)
        last = windows.join(self.layer_norm(hidden))
        found = tuple(map(windows.join, states)) if output_hidden_states else None
        return TrunkOutput(last_hidden_state=last, frame_mask=mask, hidden_states=found)


class _Windows:
    """Overlapping windows of up to `size` frames of the clips of a batch; a clip's own length decides its windows."""

    def __init__(self, mask: torch.Tensor, size: int) -> None:
        self.width = min(size, mask.shape[1])
        shared = round(size * OVERLAP)
        step = size - shared
        lengths = mask.sum(1)
        counts = (-(-(lengths - shared) // step)).clip(1)
        self.item = torch.arange(len(mask), device=mask.device).repeat_interleave(counts)
        first = counts.cumsum(0) - counts
        start = (torch.arange(len(self.item), device=mask.device) - first[self.item]) * step
        self.place = start[:, None] + torch.arange(self.width, device=mask.device)
        inside = self.place < mask.shape[1]
        self.place = self.place.clip(max=mask.shape[1] - 1)
        self.mask = mask[self.item[:, None], self.place] & inside
        self.real, frame = mask, torch.arange(mask.shape[1], device=mask.device)
        owner = ((frame - shared // 2).clip(0) // step).minimum(counts[:, None] - 1)
        self.row, self.column = first[:, None] + owner, (frame - owner * step).clip(max=self.width - 1)

    def cut(self, frames: torch.Tensor) -> torch.Tensor:
        """Windows `(W, width, H)` of frames `(B, T, H)`."""
        return frames[self.item[:, None], self.place]

    def join(self, windows: torch.Tensor) -> torch.Tensor:
        """Frames `(B, T, H)` of windows `(W, width, H)`, 0 where there is padding; member after member of n times W."""
        members = windows.unflatten(0, (-1, len(self.item)))[:, self.row, self.column]
        return (members * self.real[..., None]).flatten(0, 1)


def whisper_encoder_of(source: str, revision: str | None = None) -> tuple[PreTrainedModel, dict]:
    """The encoder in a checkpoint of Whisper, whole or for audio classification, and what the library says of its keys."""
    options = {"key_mapping": ENCODER_KEYS, "output_loading_info": True, "dtype": torch.float32}
    return WhisperTrunk.from_pretrained(source, revision=revision, trust_remote_code=False, **options)
