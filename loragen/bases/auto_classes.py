"""The auto classes of transformers by PEFT's task types."""

AUTO_CLASSES = {
    "CAUSAL_LM": "AutoModelForCausalLM",
    "SEQ_2_SEQ_LM": "AutoModelForSeq2SeqLM",
    "FEATURE_EXTRACTION": "AutoModel",
    "SEQ_CLS": "AutoModelForSequenceClassification",
    "TOKEN_CLS": "AutoModelForTokenClassification",
    "QUESTION_ANS": "AutoModelForQuestionAnswering",
}
"""PEFT's task types → the class that a base is loaded with."""


def auto_class(task_type: str | None) -> str:
    """The auto class of transformers that adapters of one of PEFT's task types are made on."""
    return AUTO_CLASSES.get(task_type or "", "AutoModel")
