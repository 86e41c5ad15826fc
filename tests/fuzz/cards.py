"""Cards beside adapters: a ``README.md`` of any make, and a ``card.yaml``."""

from hypothesis import strategies as st

from fuzz.files import Mutant, files_under
from fuzz.mutations import TOKENS, mutated_bytes, mutated_yaml
from fuzz.zoos import OLD

FOLDER = files_under(OLD / "adapter")
MODEL_CARD = b"""---
license: mit
description: Sorts letters.
tags: [lora, peft]
---
# A model

## Model Details

### Model Description

<!-- Provide a longer summary of what this model is. -->

This adapter tells apart letters to a museum.

- **License:** [More Information Needed]

```python
x = 1
```

## Uses

| a | b |
|---|---|
"""
MARKUP = (
    *TOKENS,
    b"<!--",
    b"-->",
    b"---\n",
    b"```",
    b"<script>",
    b"[a](javascript:x)",
    b"\xe2\x80\xae",
    b"# ",
    b"| ",
    b"\n\n",
)
NAMES = ("license", "description", "labels", "parents", "licence", "generator", "base")
WORDS = (
    *("tiny-base", 'x"); import os; os._exit(3) #', "x'); exit(3) #", "a\nb", "```\n", "<script>alert(1)</script>"),
    *(
        "<img src=x onerror=alert(1)>",
        "\u202eright to left",
        "\x1b[31mred",
        "a | b",
        "[a](javascript:x)",
        "`",
        "\\",
        "---",
    ),
    *(
        "{x}",
        "{{ 7 * 7 }}",
        "\x00",
        "\ud800",
        "a" * 3_000,
        "é\u0301",
        "\r",
        "\u2028",
        "&lt;b&gt;",
        "&#60;b&#62;",
        "![a](b)",
    ),
)
"""Names and texts that mean something to Python, Markdown, HTML or a terminal."""


@st.composite
def folders(draw: st.DrawFn) -> Mutant:
    """An adapter folder whose cards are mutated."""
    files = dict(FOLDER)
    which = draw(st.sampled_from(["README.md", "card.yaml", "both"]))
    if which != "card.yaml":
        files["README.md"] = draw(mutated_bytes(draw(st.sampled_from([MODEL_CARD, FOLDER["README.md"]])), MARKUP))
        if draw(st.booleans()):
            del files["card.yaml"]
            return Mutant(files, "README.md alone")
    if which != "README.md":
        files["card.yaml"] = draw(mutated_yaml(FOLDER["card.yaml"], NAMES))
    return Mutant(files, which)


def texts() -> st.SearchStrategy[str]:
    """Names and descriptions that others may give."""
    return (
        st.sampled_from(WORDS)
        | st.text(max_size=30)
        | st.builds("{}{}".format, st.sampled_from(WORDS), st.sampled_from(WORDS))
    )
