"""Model cards: text that a template or a tool wrote is never taken for a description."""

import re

import pytest
from huggingface_hub import ModelCard as HubCard
from huggingface_hub import ModelCardData
from models import tiny_bert

from loragen.zoo.model_card import ModelCard

TRAINER = """---
library_name: peft
tags:
- generated_from_trainer
---

<!-- This model card has been generated automatically according to the information the Trainer had access to. You
should probably proofread and complete it, then remove this comment. -->

# taxes

This model is a fine-tuned version of [google-bert/bert-base-uncased](https://huggingface.co/bert) on the imdb dataset.
It achieves the following results on the evaluation set:
- Loss: 0.5

## Model description

More information needed

## Intended uses & limitations

More information needed

## Training and evaluation data

The letters were written by the tax office.

## Training procedure

### Training hyperparameters

The following hyperparameters were used during training:
- learning_rate: 5e-05

### Framework versions

- PEFT 0.17.0
"""
TRL = """# Model Card for taxes

This model is a fine-tuned version of [Qwen](https://huggingface.co/Qwen).
It has been trained using [TRL](https://github.com/huggingface/trl).

## Quick start

```python
from transformers import pipeline
```

## Training procedure

This model was trained with SFT.

## Citations

Cite TRL as:

```bibtex
@misc{vonwerra2022trl}
```
"""
UNSLOTH = """# Uploaded finetuned  model

- **Developed by:** someone

This qwen2 model was trained 2x faster with [Unsloth](https://github.com/unslothai/unsloth) and TRL.
"""


def card_of(text: str) -> ModelCard:
    return ModelCard({}, re.sub(r"\A---\n.*?\n---\n", "", text, flags=re.DOTALL))


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # of peft itself
def test_the_card_that_peft_writes_describes_nothing(tmp_path):
    from peft import LoraConfig, get_peft_model

    get_peft_model(tiny_bert(), LoraConfig(target_modules=["query"])).save_pretrained(tmp_path)
    card = ModelCard.read(tmp_path)
    assert "How to Get Started" in card.text
    assert card.description is None


def test_an_empty_template_describes_nothing_even_with_its_hints_kept_as_text():
    text = HubCard.from_template(ModelCardData()).text
    assert "Provide a longer summary" in text
    assert card_of(text).description is None
    assert card_of(text.replace("<!--", "").replace("-->", "")).description is None


@pytest.mark.parametrize("text", [TRAINER, TRL, UNSLOTH], ids=["trainer", "trl", "unsloth"])
def test_the_cards_of_training_tools_describe_nothing(text):
    assert card_of(text).description is None


@pytest.mark.parametrize("part", ["model_summary", "model_description", "direct_use", "downstream_use"])
def test_a_part_of_the_template_on_the_models_purpose_is_its_description(part):
    filled = HubCard.from_template(ModelCardData(), **{part: "Sorts letters about\ntaxes by their concern."}).text
    assert card_of(filled).description == "Sorts letters about taxes by their concern."


@pytest.mark.parametrize(
    "part", ["training_data", "preprocessing", "out_of_scope_use", "bias_risks_limitations", "results", "software"]
)
def test_a_part_of_the_template_on_something_else_is_no_description(part):
    filled = HubCard.from_template(ModelCardData(), **{part: "Ten thousand letters about taxes."}).text
    assert "Ten thousand letters" in filled
    assert card_of(filled).description is None


def test_what_the_author_wrote_is_found_behind_the_tools_text():
    ours = TRAINER.replace("More information needed", "This adapter was trained to sort letters about taxes.", 1)
    assert card_of(ours).description == "This adapter was trained to sort letters about taxes."
    ours = TRAINER.replace("## Training and", "## Letters\n\nSort letters about taxes.\n\n## Training and")
    assert card_of(ours).description == "Sort letters about taxes."


def test_a_section_ends_with_the_next_of_its_rank():
    skipped = "## Evaluation\n\nAll is well here.\n\n### More\n\nAnd here it is too.\n\n"
    assert card_of(f"# Taxes\n\n{skipped}").description is None
    assert card_of(f"# Taxes\n\n{skipped}## Letters\n\nSorts tax letters.\n").description == "Sorts tax letters."
