"""One training step of a 7B-shaped Qwen2-Audio with LoRA in bfloat16 on CUDA: peak memory and speed, beside the estimate.

    python -m benchmarks.bench_qwen2_audio [--batch 8] [--seconds 30] [--steps 5]

Weights are random. `--tiny` runs the same code on a CPU with a small shape, and measures nothing of note.
"""

import argparse
import sys
import time

import torch

from annot_hf.models.adapters import add_lora
from annot_hf.models.configuration_distribution_qwen2_audio import DistributionQwen2AudioConfig
from annot_hf.models.modeling_distribution_qwen2_audio import DistributionQwen2Audio
from benchmarks.qwen2_audio_memory import GB, PROMPT_TOKENS, QUESTIONS, print_estimate, shape_7b, tiny_shape


def inputs(shape: object, batch: int, seconds: float, device: str) -> dict[str, torch.Tensor]:
    """Random clips, with as many audio tokens as they need and a prompt's worth of others."""
    frames = round(100 * seconds)
    audio_tokens = ((frames - 1) // 2 + 1 - 2) // 2 + 1
    ids = torch.ones(batch, audio_tokens + PROMPT_TOKENS, dtype=torch.long)
    ids[:, 10 : 10 + audio_tokens] = shape.audio_token_index
    mask = (torch.arange(3000) < frames).long().expand(batch, -1).contiguous()
    made = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "feature_attention_mask": mask}
    made |= {"input_features": torch.randn(batch, 128, 3000), "labels": torch.full((batch, 4), 0.25)}
    return {name: value.to(device) for name, value in made.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    if not (torch.cuda.is_available() or given.tiny):
        print("There is no CUDA GPU here, and this measures one; run it where there is, or --tiny to try the code.")
        return 1
    shape, device = (tiny_shape(), "cpu") if given.tiny else (shape_7b(), "cuda")
    expected = print_estimate(shape, given.batch, given.seconds)
    torch.set_default_dtype(torch.bfloat16)
    with torch.device(device):
        model = DistributionQwen2Audio(DistributionQwen2AudioConfig(lalm_config=shape, questions=QUESTIONS))
    torch.set_default_dtype(torch.float32)
    model.distribution_head.float()
    model = add_lora(model)
    model.activation_checkpointing_enable()
    optimiser = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], lr=2.5e-6)
    batch = inputs(shape, given.batch, given.seconds, device)
    seconds = []
    for _ in range(given.steps + 1):  # the first warms up, and makes the optimiser's states
        start = time.perf_counter()
        with torch.autocast(device, torch.bfloat16):
            loss = model.train()(**batch).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - start)
    best = min(seconds[1:])
    print(f"{best:8.3f} s  a step, {given.batch / best:.2f} clips/s, loss {float(loss.detach()):.4f}, {device}")
    if device == "cuda":
        peak = torch.cuda.max_memory_allocated()
        print(f"{peak / GB:8.2f} GB  peak on {torch.cuda.get_device_name()}, {peak / expected:.2f} of the estimate")
    return 0


if __name__ == "__main__":
    sys.exit(main())
