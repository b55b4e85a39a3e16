"""`transformers.pipeline` for our models: the whole distribution, its entropy and, on request, the raters' own answers."""

import reprlib
from typing import Any

import numpy as np
import torch
from transformers import Pipeline, PreTrainedConfig
from transformers.utils import ModelOutput

from .measures import entropy, on_scale
from .trunks import PROMPTED, WHISPER, input_name_of, token_limit, trunk_input
from .waves import read_wave

# What text trunks take of what a tokenizer gives.
_OF_TEXTS = ("input_ids", "attention_mask", "token_type_ids")


class OpinionPipeline(Pipeline):
    """Base of the pipelines: what they give for an item, or a list of these for a list of items.

    As the library's classifiers, a list of `{"label", "score"}` with the largest score first. All entries of the support are
    there, because the distribution is the prediction; scores sum to 1. Each entry has the `entropy` of the distribution
    (nats) beside them, so that the list stays what the library's tools expect. With `return_raters=True`, a dictionary: this
    list as `distribution`, its `entropy`, and `raters`, each rater's probability of each label, or rating on each scale.

    `top_k`, as the library's, keeps the first entries only. Both may be given to `pipeline` or with an item; a ValueError
    says that a model has no raters, or which other argument is not known.
    """

    _load_processor = _load_image_processor = _load_video_processor = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # batches are padded as in training
        (self.tokenizer or self.feature_extractor).padding_side = "right"

    def __call__(self, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """The result for an item, or a list of results for a list."""
        # the library looks at the first item of a list
        return [] if isinstance(inputs, list) and not inputs else super().__call__(inputs, *args, **kwargs)

    def _sanitize_parameters(
        self, top_k: int | None = None, return_raters: bool | None = None, **unknown: Any
    ) -> tuple[dict, dict, dict]:
        if unknown:
            raise ValueError(
                f"{next(iter(unknown))} is no argument of this pipeline; it takes top_k and return_raters."
            )
        if top_k is not None and (not isinstance(top_k, int) or top_k < 1):
            raise ValueError(f"top_k is {top_k!r}; give a whole number above 0, or None for all labels.")
        if return_raters and not getattr(self.model.config, "panel", 0):
            raise ValueError(
                f"return_raters is true, and this {type(self.model).__name__} has no raters; leave it out."
            )
        given = {"top_k": top_k, "return_raters": return_raters}
        return {}, {}, {name: value for name, value in given.items() if value is not None}

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        output = self.model(**inputs)
        # a row an item, as the library takes batches apart
        raters = (
            {} if output.get("ratings") is None else {"raters": output.ratings.unflatten(0, (len(output.probs), -1))}
        )
        return {"probs": output.probs, **raters}

    def postprocess(
        self, output: ModelOutput, top_k: int | None = None, return_raters: bool = False
    ) -> list[dict[str, Any]] | dict[str, Any]:
        """The result for one item."""
        config, probs = self.model.config, output["probs"][0].double().numpy()
        probs = probs / probs.sum()
        spread, order = float(entropy(probs)), np.argsort(-probs, kind="stable")[:top_k]
        entries = [{"label": config.support[k], "score": float(probs[k]), "entropy": spread} for k in order]
        if not return_raters:
            return entries
        names, answers = config.support, output["raters"][0].double()
        if config.is_scale:
            # heads are not bounded; an answer beyond the end of a scale is its end
            names = [question["name"] for question in config.questions]
            low, high = (torch.tensor([question[end] for question in config.questions]) for end in ("low", "high"))
            answers = on_scale(answers.clip(-1, 1), low, high)
        raters = zip(config.annotators, answers.tolist(), strict=False)
        told = {name: dict(zip(names, values, strict=True)) for name, values in raters}
        return {"distribution": entries, "entropy": spread, "raters": told}


class SpeechOpinionPipeline(OpinionPipeline):
    """Clips: paths, the bytes of sound files, (array, rate), `{"array", "sampling_rate"}`, or arrays at the model's rate."""

    _load_tokenizer = False
    _load_feature_extractor = True

    def preprocess(self, clip: Any) -> dict[str, torch.Tensor]:
        """The trunk's input of a clip, and its mask."""
        config, extractor = self.model.config.trunk_config, self.feature_extractor
        value = torch.from_numpy(trunk_input(config, extractor, read_wave(clip, extractor.sampling_rate)))[None]
        return {input_name_of(config): value.float(), "attention_mask": torch.ones(value.shape[:2], dtype=torch.long)}

    def _forward(self, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        name = self.model.main_input_name
        value = inputs[name].to(self.model.dtype)
        if self.model.config.trunk_config.model_type == WHISPER:
            value = value.transpose(1, 2)
        return super()._forward({**inputs, name: value})


class PromptedOpinionPipeline(OpinionPipeline):
    """Clips as `SpeechOpinionPipeline` takes them, alone or in a pair with the transcript, for an audio-language model."""

    _load_processor = True
    _load_tokenizer = _load_feature_extractor = False

    def preprocess(self, clip: Any) -> dict[str, torch.Tensor]:
        """The clip's frames, and the tokens of the question about it."""
        transcript = None
        # a pair (array, rate) is a clip alone
        if isinstance(clip, tuple) and len(clip) == 2 and isinstance(clip[1], str | None):
            clip, transcript = clip
        wave = read_wave(clip, self.feature_extractor.sampling_rate)
        return dict(self.model.prepare(self.processor, [wave], [transcript]))


class TextOpinionPipeline(OpinionPipeline):
    """Texts; what exceeds the model's limit is cut off."""

    _load_tokenizer = True
    _load_feature_extractor = False

    def preprocess(self, text: str) -> dict[str, torch.Tensor]:
        """The tokens of a text, and their mask."""
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"The text is {reprlib.repr(text)}; give a string with at least one word.")
        limit = token_limit(self.model.config.trunk_config, self.tokenizer)
        tokens = self.tokenizer(
            text, truncation=True, max_length=limit, return_attention_mask=True, return_tensors="pt"
        )
        return {name: tokens[name] for name in _OF_TEXTS if name in tokens}


def pipelines_of(trunk_config: PreTrainedConfig) -> dict[str, dict[str, Any]]:
    """The pipeline of a model over a trunk, by its task: what `transformers.pipeline` looks for in `config.json`."""
    task, kind, chosen = "audio-classification", "audio", SpeechOpinionPipeline
    if input_name_of(trunk_config) == "input_ids":
        task, kind, chosen = "text-classification", "text", TextOpinionPipeline
    elif input_name_of(trunk_config) == PROMPTED:
        chosen = PromptedOpinionPipeline
    return {task: {"impl": f"{__name__.rpartition('.')[-1]}.{chosen.__name__}", "pt": ["AutoModel"], "type": kind}}
