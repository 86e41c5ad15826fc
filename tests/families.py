"""Tiny random bases of the model families that loragen takes, on disk, and tasks that they can learn a little of."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from loragen.bases.base import ObjectiveName
from loragen.tasks.task_set import Task, TaskSource

WORDS = ("soup", "bread", "cold", "warm", "tea")


@dataclass(frozen=True)
class Family:
    """A kind of model: its classes in transformers, sizes in their words, and what adapters of it aim at."""

    config: str
    model: str
    sizes: dict[str, Any]
    target_modules: tuple[str, ...]
    objective: ObjectiveName = "label_text"


_BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 130,
}
_LLAMA = _BERT | {"num_attention_heads": 4, "num_key_value_heads": 2}
_GEMMA = _LLAMA | {"head_dim": 4}
_GPT2 = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 128}
_T5 = {"d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 2, "num_heads": 2}
_TOWER = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
_CLIP = {
    "text_config": _TOWER | {"max_position_embeddings": 64},
    "vision_config": _TOWER | {"image_size": 16, "patch_size": 8},
    "projection_dim": 16,
}
FAMILIES = {
    "bert": Family("BertConfig", "BertModel", _BERT, ("query", "value")),
    "roberta": Family("RobertaConfig", "RobertaModel", _BERT, ("query", "value")),
    "modernbert": Family("ModernBertConfig", "ModernBertModel", _BERT, ("Wqkv",)),
    "mpnet": Family("MPNetConfig", "MPNetModel", _BERT, ("q", "v")),
    "llama": Family("LlamaConfig", "LlamaForCausalLM", _LLAMA, ("q_proj", "v_proj"), "causal_lm"),
    "qwen2": Family("Qwen2Config", "Qwen2ForCausalLM", _LLAMA, ("q_proj", "v_proj"), "causal_lm"),
    "mistral": Family("MistralConfig", "MistralForCausalLM", _LLAMA, ("q_proj", "v_proj"), "causal_lm"),
    "gemma2": Family("Gemma2Config", "Gemma2ForCausalLM", _GEMMA, ("q_proj", "v_proj"), "causal_lm"),
    "gpt2": Family("GPT2Config", "GPT2LMHeadModel", _GPT2, ("c_attn",), "causal_lm"),
    "gpt_neox": Family("GPTNeoXConfig", "GPTNeoXForCausalLM", _BERT, ("query_key_value",), "causal_lm"),
    "t5": Family("T5Config", "T5ForConditionalGeneration", _T5, ("q", "v"), "seq2seq"),
    "clip": Family("CLIPConfig", "CLIPModel", _CLIP, ("q_proj", "k_proj", "v_proj"), "image_text"),
}
CHAT = (
    "{% for m in messages %}{{ '<s>' + m['role'] + '\n' + m['content'] + '</s>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<s>assistant\n' }}{% endif %}"
)
"""Template for chats of the decoders."""
_SPECIAL = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def write_base(folder: Path, name: str, *, seed: int = 0, **changes: Any) -> Path:
    """Write a tiny random model of a family with a byte-level tokenizer; ``changes`` go over its sizes."""
    import transformers

    family = FAMILIES[name]
    tokenizer = _tokenizer(with_ends=family.objective in ("label_text", "image_text"))
    if family.objective == "causal_lm":
        tokenizer.chat_template = CHAT
    tokenizer.save_pretrained(folder)
    common: dict[str, Any] = {"vocab_size": len(tokenizer), **_IDS}
    sizes = family.sizes | changes
    if name == "clip":
        sizes = sizes | {"text_config": sizes["text_config"] | common}
        transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder)
    else:
        sizes = common | sizes
    if name == "t5":
        sizes |= {"decoder_start_token_id": 0}
    config = getattr(transformers, family.config)(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = getattr(transformers, family.model)(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.normal_(std=0.2)  # the usual .02 leaves so small a model all but blind to its input
    model.save_pretrained(folder)
    return folder


def _tokenizer(*, with_ends: bool) -> Any:
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors
    from tokenizers.models import BPE
    from tokenizers.trainers import BpeTrainer
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=300,
        special_tokens=list(_SPECIAL.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([f"a {word} b {word}" for word in WORDS] * 5, trainer)
    if with_ends:
        tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", pair="<s> $A </s> $B </s>", special_tokens=[("<s>", 1), ("</s>", 2)]
        )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=128, **_SPECIAL)


def write_task(folder: Path, family: str, *, name: str = "drinks", words: tuple[str, str] = ("soup", "tea")) -> Task:
    """A task of two classes for a family: which of two words stands among letters, or is an image red or green?"""
    folder.mkdir(parents=True, exist_ok=True)
    rng = torch.Generator().manual_seed(sum(name.encode()))
    is_image = FAMILIES[family].objective == "image_text"
    for part, size in (("train", 80), ("test", 24)):
        rows = [_row(folder, f"{name}-{part}-{i}", words[i % 2], i % 2, is_image, rng) for i in range(size)]
        (folder / f"{name}.{part}.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    places = {part: str(folder / f"{name}.{part}.jsonl") for part in ("train", "test")}
    source = TaskSource(**places, image="image" if is_image else None)
    return Task(id=name, description=f"Is it {words[0]} or {words[1]}?", labels=words, source=source, licence="CC0")


def _row(folder: Path, name: str, word: str, label: int, is_image: bool, rng: torch.Generator) -> dict[str, str]:
    if is_image:
        from PIL import Image

        shades = [int(shade) for shade in torch.randint(120, 256, (2,), generator=rng)]
        colour = (shades[0], 0, 40) if label else (0, shades[1], 40)
        Image.new("RGB", (20, 16), colour).save(folder / f"{name}.png")
        return {"image": f"{name}.png", "text": f"a photo of {word}", "label": word}
    letters = ["abcdefghij"[i] for i in torch.randint(10, (4,), generator=rng).tolist()]
    letters[int(torch.randint(4, (), generator=rng))] = word
    return {"text": " ".join(letters), "label": word}
