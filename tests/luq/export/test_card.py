"""The model card, whatever the names in it are."""

from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from luq import __version__
from luq.export.card import ledger_table, render
from tests.luq.export.facts import CARD

FIRST_LINE = (
    "llava-hf/llava-1.5-7b-hf with its decoder's linears packed by "
    "[LUQ](https://arxiv.org/abs/2509.23729), layer by layer: `0-3:billm 4-9:gptq4`."
)
LEDGER = {"codes": 1_000, "vision": 20_000_000, "header": 30}


def head_of(card: str) -> dict[str, object]:
    _, head, _ = card.split("---\n", 2)
    entries: dict[str, object] = yaml.safe_load(head)
    return entries


def test_a_card_says_what_is_packed_and_how_it_scores() -> None:
    assert (
        render(CARD, "luq", LEDGER)
        == f"""---
library_name: transformers
pipeline_tag: image-text-to-text
base_model: llava-hf/llava-1.5-7b-hf
tags: [luq, quantized, vision-language]
---
# llava, luq_k4

{FIRST_LINE}
2.00 nominal and 2.500 stored bits per weight of the decoder's linears.

```python
import luq  # pip install luq
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("DIR")
processor = AutoProcessor.from_pretrained("DIR")
```

Made with luq {__version__}: `luq run allocation.k=4`, calibrated on `multimodal, 262144 tokens`.

## Where the bytes are

| part | bytes |
|---|---:|
| vision | 20,000,000 |
| codes | 1,000 |
| header | 30 |
| **weight files** | **20,001,030** |

## Scores

report split; in brackets: 95 % interval. Retention: share of the same model's own 16-bit score.

| benchmark | n | 16-bit | this model | retention % |
|---|---:|---:|---:|---:|
| gqa | 500 | 62.5 | 61.2 [56.9, 65.4] | 98.0 |
| mme (collapsed) | 120 | 0.0 | 50.0 [49.5, 50.5] | - |
| **mean** | | 31.2 | 55.6 | - |
"""
    )


def test_a_card_says_what_its_layout_needs() -> None:
    card = render(CARD, "compressed-tensors", LEDGER)
    assert "# pip install compressed-tensors\nfrom transformers" in card
    assert "import luq" not in card


@pytest.mark.parametrize(
    "base",
    [
        "a: b",
        "#x",
        "'quoted\"",
        "---",
        "true",
        "[1]",
        "tab\there",
        "two\nlines: 1",
        "é 中",
        "x" * 300,
    ],
)
def test_the_head_says_the_model_whatever_its_name_is(base: str) -> None:
    assert head_of(render(replace(CARD, base=base), "luq", LEDGER)) == {
        "library_name": "transformers",
        "pipeline_tag": "image-text-to-text",
        "base_model": base,
        "tags": ["luq", "quantized", "vision-language"],
    }


@given(st.text(min_size=1))
def test_any_name_is_one_entry_of_the_head(base: str) -> None:
    card = render(replace(CARD, base=base), "luq", LEDGER)
    head = card[len("---\n") : card.index("\n---\n#") + 1]
    assert yaml.safe_load(head)["base_model"] == base


def test_names_in_tables_cannot_add_cells() -> None:
    scores = [replace(CARD.scores[0], benchmark="g|q\na")]
    card = render(replace(CARD, scores=scores), "luq", {"a|b": 1})
    assert r"| g\|q a | 500 |" in card
    assert r"| a\|b | 1 |" in card


def test_the_title_the_split_and_the_command_are_escaped() -> None:
    facts = replace(CARD, title="<b>", split="<i>", command="a`b", calibration="c`d", base="*m*")
    card = render(facts, "luq", LEDGER)
    for piece in (
        r"# \<b\>",
        r"\<i\> split;",
        "`` a`b ``",
        "`` c`d, 262144 tokens ``",
        r"\*m\* with",
    ):
        assert piece in card


def test_parts_of_equal_size_keep_their_order() -> None:
    table = ledger_table({"b": 5, "a": 5, "c": 9})
    assert [row.split()[1] for row in table.splitlines()[2:]] == ["c", "b", "a", "**weight"]


def test_a_card_names_what_is_packed_beside_the_decoder() -> None:
    text = render(replace(CARD, parts={"vision": "trellis2", "head": "gptq4"}), "luq", LEDGER)
    assert f"{FIRST_LINE} Beside them: `vision in trellis2, head in gptq4`." in text
