"""The model card of an exported folder: README.md, with the head that the hub reads."""

from dataclasses import dataclass, field

import yaml

from luq import __version__
from luq.escaping import markdown, markdown_code
from luq.export.about import GGUF_LAYOUT

PAPER = "https://arxiv.org/abs/2509.23729"
CARD = """---
{head}---
# {title}

{base} with its decoder's linears packed by [LUQ]({paper}), layer by layer: {allocation}.{beside}
{nominal_bits:.2f} nominal and {stored_bits:.3f} stored bits per weight of the decoder's linears.

```{language}
{requirement}
{loading}
```
{note}
Made with luq {version}: {command}, calibrated on {calibration}.

## Where the bytes are

{ledger}

## Scores

{split} split; in brackets: 95 % interval. Retention: share of the same model's own 16-bit score.

{scores}
"""
LOADING_VISION = """from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("DIR")
processor = AutoProcessor.from_pretrained("DIR")"""
LOADING_LLAMA_CPP = "llama-mtmd-cli -m DIR/model.gguf --mmproj DIR/mmproj.gguf --image FILE -p TEXT"
LOADING_LLAMA_CPP_TEXT = "llama-cli -m DIR/model.gguf -p TEXT"
LOADING_TEXT = """from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained("DIR")
tokenizer = AutoTokenizer.from_pretrained("DIR")"""
REQUIREMENTS = {  # by layout: what has to be there before transformers can load it
    "luq": "import luq  # pip install luq",
    "compressed-tensors": "# pip install compressed-tensors",
    "gguf": "# llama.cpp",
    "dequantized": "# plain weights: the values of the packed model, not its size",
}


@dataclass(frozen=True)
class ScoreRow:
    """One benchmark of the card. Scores are percent of the maximum, retention is a share."""

    benchmark: str
    n: int
    float_score: float  # of the same model in 16 bit
    score: float
    low: float  # end of its 95 % interval
    high: float
    retention: float | None
    is_collapsed: bool


@dataclass(frozen=True)
class CardFacts:
    """What a card says of a packed model."""

    base: str  # the 16-bit model
    title: str
    allocation: str
    nominal_bits: float
    stored_bits: float
    command: str  # that makes the model again
    calibration: str  # name of the calibration set
    calibration_tokens: int
    split: str  # whose questions the scores are of
    scores: list[ScoreRow]
    float_mean_score: float
    mean_score: float
    mean_retention: float | None
    parts: dict[str, str] = field(default_factory=dict)  # tiers of what is packed beside them


def render(
    facts: CardFacts,
    layout: str,
    ledger: dict[str, int],
    sees_images: bool = True,
    note: str = "",
) -> str:
    """The text of a card.

    Args:
        facts: What it says. Names in it may hold anything: they are escaped.
        layout: Name of the layout in which the folder is written.
        ledger: Bytes per tensor class of the folder's weight files.
        sees_images: Whether the model has a vision tower.
        note: What else is to be said of the layout, in Markdown.
    """
    is_gguf = layout == GGUF_LAYOUT
    return CARD.format(
        head=_head(facts.base, sees_images, GGUF_LAYOUT if is_gguf else "transformers"),
        title=markdown(facts.title),
        base=markdown(facts.base),
        paper=PAPER,
        allocation=markdown_code(facts.allocation),
        beside=_beside(facts.parts),
        nominal_bits=facts.nominal_bits,
        stored_bits=facts.stored_bits,
        requirement=REQUIREMENTS[layout],
        language="sh" if is_gguf else "python",
        loading=_loading(is_gguf, sees_images),
        note=f"\n{note}\n" if note else "",
        version=__version__,
        command=markdown_code(facts.command),
        calibration=markdown_code(f"{facts.calibration}, {facts.calibration_tokens} tokens"),
        ledger=ledger_table(ledger),
        split=markdown(facts.split),
        scores=_score_table(facts),
    )


def _loading(is_gguf: bool, sees_images: bool) -> str:
    """How a folder is loaded."""
    if is_gguf:
        return LOADING_LLAMA_CPP if sees_images else LOADING_LLAMA_CPP_TEXT
    return LOADING_VISION if sees_images else LOADING_TEXT


def _beside(parts: dict[str, str]) -> str:
    """A sentence on what is packed beside the decoder's linears; empty if nothing is."""
    if not parts:
        return ""
    tiers = ", ".join(f"{part} in {tier}" for part, tier in parts.items())
    return f" Beside them: {markdown_code(tiers)}."


class _OneLine(yaml.SafeDumper):
    """Writes each text in one line, so that none can look like the end of the head."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        """A text, in double quotes where it has line breaks."""
        style = '"' if "\n" in data else None
        return self.represent_scalar("tag:yaml.org,2002:str", data, style=style)


_OneLine.add_representer(str, _OneLine.represent_str)


def _head(base: str, sees_images: bool, library: str) -> str:
    """The card's YAML. It is dumped, not formatted: a name may hold colons, quotes or a `#`."""
    entries = {
        "library_name": library,
        "pipeline_tag": "image-text-to-text" if sees_images else "text-generation",
        "base_model": base,
        "tags": ["luq", "quantized", *(["vision-language"] if sees_images else [])],
    }
    head: str = yaml.dump(
        entries, Dumper=_OneLine, sort_keys=False, default_flow_style=None, width=float("inf")
    )
    return head


def ledger_table(ledger: dict[str, int]) -> str:
    """A Markdown table of bytes per class, largest first, and their sum: the weight files."""
    rows = ["| part | bytes |", "|---|---:|"]
    for part, size in sorted(ledger.items(), key=lambda item: -item[1]):
        rows.append(f"| {markdown(part)} | {size:,} |")
    rows.append(f"| **weight files** | **{sum(ledger.values()):,}** |")
    return "\n".join(rows)


def _score_table(facts: CardFacts) -> str:
    rows = ["| benchmark | n | 16-bit | this model | retention % |", "|---|---:|---:|---:|---:|"]
    for row in facts.scores:
        name = markdown(row.benchmark) + (" (collapsed)" if row.is_collapsed else "")
        score = f"{row.score:.1f} [{row.low:.1f}, {row.high:.1f}]"
        retention = _percent(row.retention)
        rows.append(f"| {name} | {row.n} | {row.float_score:.1f} | {score} | {retention} |")
    if not facts.scores:
        perplexity = f"{facts.mean_score:.1f} % of the 16-bit model's"
        return f"No benchmark was asked. Perplexity on held-out text, inverted: {perplexity}."
    rows.append(
        f"| **mean** | | {facts.float_mean_score:.1f} | {facts.mean_score:.1f} "
        f"| {_percent(facts.mean_retention)} |"
    )
    return "\n".join(rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"
