"""A run, as luq.json and the model card say it."""

from luq.export.card import CardFacts, ScoreRow
from luq.export.folder import ExportedRun
from luq.formats.sizes import Memory

MEMORY = Memory(
    weights=1000,
    nominal_bits=2.0,
    stored_bits=2.5,
    stored_bytes=312,
    rest_bytes=700,
    checkpoint_bytes=1012,
    resident_bytes=300,
    peak_bytes=5000,
    ledger={"codes": 250, "header": 62, "vision": 700},
)
RUN = ExportedRun(
    key="0123456789abcdef",
    name="luq_k4",
    command="luq run allocation.k=4",
    allocation="0-3:billm 4-9:gptq4",
    tiers=["billm"] * 4 + ["gptq4"] * 6,
    model_fingerprint="feed",
    model_commit=None,
    system_prompt="Answer briefly.",
    scores={"gqa": 61.25},
    mean_score=61.25,
    mean_retention=0.98,
    memory=MEMORY,
    versions={"torch": "2.11.0"},
    git_sha=None,
)
CARD = CardFacts(
    base="llava-hf/llava-1.5-7b-hf",
    title="llava, luq_k4",
    allocation="0-3:billm 4-9:gptq4",
    nominal_bits=2.0,
    stored_bits=2.5,
    command="luq run allocation.k=4",
    calibration="multimodal",
    calibration_tokens=262144,
    split="report",
    scores=[
        ScoreRow("gqa", 500, 62.5, 61.25, 56.9, 65.4, 0.98, is_collapsed=False),
        ScoreRow("mme", 120, 0.0, 50.0, 49.5, 50.5, None, is_collapsed=True),
    ],
    float_mean_score=31.25,
    mean_score=55.625,
    mean_retention=None,
)
