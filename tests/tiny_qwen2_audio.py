"""A tiny random Qwen2-Audio checkpoint folder with its true processor, built offline."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    PreTrainedTokenizerFast,
    Qwen2AudioConfig,
    Qwen2AudioForConditionalGeneration,
    Qwen2AudioProcessor,
    WhisperFeatureExtractor,
)

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|AUDIO|>", "<|audio_bos|>", "<|audio_eos|>")
SENTENCES = (
    "How does the speaker in this recording feel?",
    "system\nYou are a helpful assistant.",
    "Answer with one of: angry, happy, neutral, sad.",
    "What did they say? The transcript is empty.",
)
# that of Qwen2-Audio-7B-Instruct: turns in ChatML, each clip numbered, the audio token between its two marks
CHAT_TEMPLATE = (
    "{% set audio_count = namespace(value=0) %}{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}<|im_end|>\n"
    "{% else %}{% for content in message['content'] %}"
    "{% if 'audio' in content or 'audio_url' in content or message['type'] == 'audio' or content['type'] == 'audio' %}"
    "{% set audio_count.value = audio_count.value + 1 %}"
    "Audio {{ audio_count.value }}: <|audio_bos|><|AUDIO|><|audio_eos|>\n"
    "{% elif 'text' in content %}{{ content['text'] }}{% endif %}{% endfor %}<|im_end|>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def build_tiny_qwen2_audio(folder: Path, *, seed: int = 0) -> Path:
    """Write a random Qwen2-Audio (two layers, width 32) and its processor to `folder`, and return the folder.

    Everything is as in Qwen2-Audio-7B-Instruct but for the sizes and the words of the tokenizer: 128 mel bins, 30 s of
    audio as 750 tokens, `<|AUDIO|>` between `<|audio_bos|>` and `<|audio_eos|>`, a chat template, no tied weights.
    """
    folder = Path(folder)
    processor = Qwen2AudioProcessor(
        feature_extractor=WhisperFeatureExtractor(feature_size=128),
        tokenizer=make_tokenizer(),
        chat_template=CHAT_TEMPLATE,
    )
    processor.save_pretrained(folder)
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)
    model = Qwen2AudioForConditionalGeneration(tiny_config(processor.tokenizer))
    torch.random.set_rng_state(state)
    model.save_pretrained(folder)
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """A byte-level BPE of a few sentences with the special tokens of Qwen2-Audio."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        padding_side="left",
        extra_special_tokens=list(SPECIAL[1:]),
        model_max_length=8192,
    )


def tiny_config(tokenizer: PreTrainedTokenizerFast) -> Qwen2AudioConfig:
    """Two layers of audio tower and language model, 32 wide, over the tokenizer's words."""
    size = {"num_hidden_layers": 2, "num_attention_heads": 4}
    return Qwen2AudioConfig(
        audio_config={
            "model_type": "qwen2_audio_encoder",
            "num_mel_bins": 128,
            "d_model": 32,
            "encoder_layers": 2,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 64,
            "max_source_positions": 1500,
        },
        text_config={
            "model_type": "qwen2",
            "vocab_size": len(tokenizer),
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_key_value_heads": 4,
            "max_position_embeddings": 2048,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
            "tie_word_embeddings": False,
            **size,
        },
        audio_token_index=tokenizer.convert_tokens_to_ids("<|AUDIO|>"),
    )
