"""Whisper's encoder on clips of 2.5 seconds: at their own length against the library's 30 seconds, and layer by layer."""

import functools
from collections.abc import Iterator

import torch
from transformers import WhisperConfig
from transformers.models.whisper.modeling_whisper import WhisperEncoder

from annot_hf.models.configuration_log_mel import LogMelConfig
from annot_hf.models.trunks import build_trunk, encode
from annot_hf.models.whisper import PEAK
from benchmarks.timing import Result, best

CLIPS, SECONDS = 8, 2.5
# layers, width and heads, as OpenAI's
SIZES = {"tiny": (4, 384, 6), "base": (6, 512, 8)}
# Seconds of audio that a second must at least encode, by all of the layers.
LEAST = {"log-mel": 100.0, "tiny": 40.0, "base": 15.0}


@torch.inference_mode()
def run() -> Iterator[Result]:
    torch.set_num_threads(2)
    clips, length = torch.randn(CLIPS, 80, round(100 * SECONDS)), CLIPS * SECONDS
    log_mel = build_trunk(LogMelConfig()).eval()
    (seconds,) = best(lambda: encode(log_mel, input_features=clips.transpose(1, 2)), rounds=3)
    yield Result("log-mel", f"{CLIPS} clips played", length, seconds, LEAST["log-mel"], 0.0, 0.0)
    for name, (depth, width, heads) in SIZES.items():
        own = {
            "d_model": width,
            "encoder_layers": depth,
            "encoder_attention_heads": heads,
            "encoder_ffn_dim": 4 * width,
        }
        config, parts = WhisperConfig(**own), {}
        for layer in range(1, depth + 1):
            parts[layer] = build_trunk(config, layer).eval()
        calls = [lambda part=part: encode(part, input_features=clips) for part in parts.values()]
        for layer, seconds in zip(parts, best(*calls, rounds=3), strict=True):
            goal = LEAST[name] if layer == depth else 0.0
            yield Result(f"{name}, {layer} of {depth} layers", f"{CLIPS} clips played", length, seconds, goal, 0.0, 0.0)
        ours, library = build_trunk(config).eval(), WhisperEncoder(config).eval()
        library.load_state_dict(ours.state_dict())
        whole = torch.randn(1, 80, 3000)
        whole = whole - whole.max() + PEAK
        difference = float((encode(ours, input_features=whole)[0] - library(whole).last_hidden_state).abs().max())
        padded, clip = best(
            functools.partial(library, whole), functools.partial(encode, ours, input_features=clips[:1]), rounds=3
        )
        yield Result(f"{name}, a clip", "padded to 30 seconds", padded, clip, 6.0, difference, 1e-4)
