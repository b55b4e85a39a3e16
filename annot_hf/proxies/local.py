"""A backend that runs a Qwen2-Audio on this machine, several questions per batch."""

import asyncio
import io
import json
from collections.abc import Sequence
from pathlib import Path

import soundfile
import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoProcessor,
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    ProcessorMixin,
    Qwen2AudioForConditionalGeneration,
)
from transformers.utils.hub import cached_file, extract_commit_hash

from annot_hf.models.checks import check_attention
from annot_hf.models.trunks import weights_digest
from annot_hf.proxies.backend import AT_ONCE, Answer, Ask, Stopped


class LocalModel:
    """Batches of questions to a Qwen2-Audio (Hub id or folder), in bfloat16 on a CUDA device and in float32 elsewhere.

    `revision` is the commit on the Hub; for a folder, a digest of its files, so that a change of them is noticed.
    """

    max_concurrency = AT_ONCE["local"]
    timeout = None

    def __init__(self, model: str, *, batch_size: int = 8, max_tokens: int = 64, revision: str = "") -> None:
        self.model, self.batch_size, self.max_tokens = model, batch_size, max_tokens
        commit = _check_kind(model, revision)
        self.processor, self.lalm = _load_lalm(model, commit)
        self.revision = commit or weights_digest(model) or ""
        if not commit and revision not in ("", self.revision):
            raise ValueError(
                f"revision is {revision!r} and the files in the folder {model} are {self.revision}; put those back, or "
                "leave the revision out."
            )
        self.processor.tokenizer.padding_side = "left"
        tokens = self.lalm.generation_config
        # a new configuration, as that of the checkpoint sets a temperature, a top-k and a repetition penalty
        self._generation = GenerationConfig(
            max_new_tokens=max_tokens,
            do_sample=False,
            pad_token_id=self.processor.tokenizer.pad_token_id,
            eos_token_id=tokens.eos_token_id or self.processor.tokenizer.eos_token_id,
        )
        ends = self._generation.eos_token_id
        self._ends = torch.tensor(ends if isinstance(ends, list) else [ends]).to(self.lalm.device)

    async def ask(self, asks: Sequence[Ask]) -> list[Answer]:
        """See `Backend.ask`."""
        try:
            return await asyncio.to_thread(self._generate, asks)
        except torch.OutOfMemoryError:
            raise Stopped(
                f"The device has too little memory for {len(asks)} questions at a time; lower --batch-size."
            ) from None

    async def close(self) -> None:
        """See `Backend.close`; there are no connections."""

    @torch.inference_mode()
    def _generate(self, asks: Sequence[Ask]) -> list[Answer]:
        clip, texts = {"type": "audio", "audio_url": "clip.wav"}, []
        for ask in asks:
            content = [clip, {"type": "text", "text": ask.user}]
            turns = [{"role": "system", "content": ask.system}, {"role": "user", "content": content}]
            texts.append(self.processor.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        extractor = self.processor.feature_extractor
        waves = [soundfile.read(io.BytesIO(ask.audio), dtype="float32")[0] for ask in asks]
        batch = self.processor(
            text=texts, audio=waves, sampling_rate=extractor.sampling_rate, return_tensors="pt", padding=True
        ).to(self.lalm.device)
        batch["input_features"] = batch["input_features"].to(self.lalm.dtype)
        sampler = RowSampler([ask.temperature for ask in asks], [ask.seed for ask in asks])
        found = self.lalm.generate(
            **batch, generation_config=self._generation, logits_processor=LogitsProcessorList([sampler])
        )
        written = found[:, batch["input_ids"].shape[1] :]
        replies = self.processor.batch_decode(written, skip_special_tokens=True)
        return [
            Answer(
                reply,
                revision=self.revision,
                cut=not bool(torch.isin(written[row], self._ends).any()),
                input_tokens=int(batch["attention_mask"][row].sum()),
                output_tokens=int((written[row] != self._generation.pad_token_id).sum()),
            )
            for row, reply in enumerate(replies)
        ]


def _load_lalm(model: str, revision: str) -> tuple[ProcessorMixin, Qwen2AudioForConditionalGeneration]:
    """The processor and the whole model of a Hub id or folder."""
    where = {"trust_remote_code": False} | ({"revision": revision} if revision else {})
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    try:
        check_attention(AutoConfig.from_pretrained(model, **where))
        processor = AutoProcessor.from_pretrained(model, **where)
        lalm, info = Qwen2AudioForConditionalGeneration.from_pretrained(
            model, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **where
        )
    except (OSError, ValueError, SafetensorError, StrictDataclassError) as error:
        raise ValueError(
            f"{model!r} cannot be loaded as a Qwen2-Audio ({_first_line(error)}); give a Hub id or a folder with processor, "
            "configuration and weights."
        ) from error
    odd = sorted([*info["missing_keys"], *(name for name, *_ in info["mismatched_keys"])])
    # the library would initialise them at random
    if odd:
        raise ValueError(
            f"{model!r} lacks {len(odd)} weights of a Qwen2-Audio of its configuration, for instance {odd[0]}; give a whole "
            "checkpoint."
        )
    return processor, lalm.to(device).eval()


def _check_kind(model: str, revision: str) -> str:
    """The commit of a config.json that must be that of a Qwen2-Audio, or "" for a plain folder."""
    try:
        path = cached_file(model, "config.json", revision=revision or None)
        config = {} if path is None else json.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(
            f"There is no checkpoint {model!r} with a readable config.json ({_first_line(error)}); give a Hub id or a folder."
        ) from error
    kind = config.get("model_type") if isinstance(config, dict) else None
    if not isinstance(kind, str):
        raise ValueError(f"{model!r} has no config.json with a model_type; give a Hub id or folder of a Qwen2-Audio.")
    if kind.startswith("annot-"):
        raise ValueError(
            f"{model!r} holds a model of distributions, which gives no text answers; name a plain Qwen2-Audio, such "
            "as Qwen/Qwen2-Audio-7B-Instruct."
        )
    if kind != "qwen2_audio":
        raise ValueError(
            f"{model} is a {kind}; backend local takes a Qwen2-Audio: serve others by vLLM, say, and use backend openai."
        )
    return extract_commit_hash(path, None) or ""


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0].rstrip(".:")


class RowSampler(LogitsProcessor):
    """Makes the most likely token of each row a sample at its own temperature, whatever it is batched with.

    The token with the largest logit / T + g, with g standard Gumbel noise, is a draw from softmax(logits / T).
    """

    def __init__(self, temperatures: Sequence[float], seeds: Sequence[int]) -> None:
        self.temperatures = torch.tensor(temperatures)
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Add the noise to scores `(B, vocabulary)`."""
        uniform = torch.stack([torch.rand(scores.shape[-1], generator=one) for one in self.generators])
        gumbel = -(-uniform.clip(1e-20).log()).clip(1e-20).log()
        return scores.float() / self.temperatures.to(scores.device)[:, None] + gumbel.to(scores.device)
