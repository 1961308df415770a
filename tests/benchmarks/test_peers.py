"""The peers' benchmark without its peers: what is counted, kept, shown and scored."""

import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from rich.console import Console
from torch import nn

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "benchmarks"))

import gemma3
import peer_methods
import peer_results
import peers
from peer_results import FLOAT, Result, Scene

import luq
from luq.api.graph import calibration_of
from luq.calibration.artefacts import samples_of
from luq.config import RtnTier
from luq.errors import ConfigError, DataError, ModelError
from tests.luq.models import tiny_families

SCENE = Scene("tiny", "0123", tokens=8192, windows=3, length=512, linears=[])


def result(row: str, bits: float, loss: float, family: str = "LUQ", **changes: Any) -> Result:
    losses = [loss, loss + 0.1, loss + 0.2]
    divergences = [loss - 3.0, loss - 2.9, loss - 3.1]
    made = Result(SCENE, row, family, bits, losses, divergences, 12.3, 2_100_000_000, "a note")
    return replace(made, **changes)


REFERENCE = result(FLOAT, 16.0, 3.0, FLOAT, divergences=[0.0, 0.0, 0.0])
LINES = [REFERENCE, result("trellis2 fitted", 2.0, 3.5), result("gptq4", 4.28, 3.1)]
LINES += [result("llama.cpp IQ2_XXS", 2.06, 3.75, "llama.cpp")]


def test_stored_bytes_count_scales_and_zero_points() -> None:
    # nine groups of 64: (2 * 576 + 9 * (16 + 2)) / 8 bytes a row
    assert peer_methods.grid_bytes(8, 576, 2, 64, 2) == 8 * (2 * 576 + 9 * 18) // 8
    # a short last group has a scale, too
    assert peer_methods.grid_bytes(1, 65, 3, 64, 3) == math.ceil((3 * 65 + 2 * 19) / 8)
    # two bits a weight, eight fp16 numbers for a row in a block, a flag for a column
    assert peer_methods.billm_bytes(4, 256, 128) == (2 * 4 * 256 + 4 * 2 * 8 * 16 + 256) // 8


def test_types_that_were_fallen_back_to_are_named() -> None:
    note = peer_methods.types_note(["iq2_xxs", "iq4_nl", "iq4_nl", "q2_k", "iq4_nl"])
    assert note == "3 in iq4_nl, 1 in iq2_xxs, 1 in q2_k"
    assert peer_methods.gguf_name(3, "mlp.down_proj") == "blk.3.ffn_down.weight"


def test_results_are_found_again(tmp_path: Path) -> None:
    file = tmp_path / "new" / "results.jsonl"
    for line in LINES:
        peer_results.keep(line, file)
    assert peer_results.results_of(file) == LINES
    peer_results.keep(replace(LINES[1], stored_bits=2.5), file)
    assert [each.stored_bits for each in peer_results.results_of(file)] == [16.0, 2.5, 4.28, 2.06]


def test_a_line_that_was_cut_off_costs_one_row(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    peer_results.keep(LINES[0], file)
    peer_results.keep(LINES[1], file)
    file.write_bytes(file.read_bytes()[:-40])
    assert peer_results.results_of(file) == LINES[:1]
    peer_results.keep(LINES[2], file)
    assert peer_results.results_of(file) == [LINES[0], LINES[2]]


@pytest.mark.parametrize(
    "line",
    ["{}", "[1]", '"text"', json.dumps({"row": 1}), "[" * 50, "\x00"],
)
def test_other_lines_are_no_results(tmp_path: Path, line: str) -> None:
    file = tmp_path / "results.jsonl"
    file.write_text(line + "\n", encoding="utf-8")
    assert peer_results.results_of(file) == []


def test_results_of_too_few_windows_are_none(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    peer_results.keep(replace(LINES[1], losses=[1.0]), file)
    assert peer_results.results_of(file) == []


def test_rows_stand_by_family_and_bits() -> None:
    other = replace(LINES[1], scene=replace(SCENE, model="another"))
    rows = peer_results.of_scene([LINES[1], LINES[3], other, LINES[2], REFERENCE], SCENE)
    assert [row.row for row in rows] == [FLOAT, "gptq4", "trellis2 fitted", "llama.cpp IQ2_XXS"]
    with pytest.raises(ConfigError, match="'16 bit' is missing"):
        peer_results.reference_of(rows[1:])


def test_the_16_bit_row_is_measured_once() -> None:
    some = replace(SCENE, linears=["down_proj"], tokens=512)
    found = peer_results.measured_elsewhere(LINES, some)
    assert found == replace(REFERENCE, scene=some)
    assert peer_results.measured_elsewhere(LINES, replace(SCENE, texts="other")) is None
    assert peer_results.measured_elsewhere(LINES[1:], some) is None


def test_the_table_fits_80_columns() -> None:
    console = Console(width=80, file=io.StringIO(), record=True)
    console.print(peer_results.table_of(LINES))
    written = console.export_text()
    assert all(len(line) <= 80 for line in written.split("\n"))
    rows = [line for line in written.split("\n") if line.startswith("trellis2 fitted")]
    # exp(3.6) and exp(0.5); all differences are alike, so its interval is empty
    assert rows[0].split()[2:] == [
        "2.00",
        "36.60",
        "1.65",
        "[1.65,",
        "1.65]",
        "0.5",
        "[0.4,",
        "0.6]",
        "12",
        "2.1",
    ]


def test_the_table_in_markdown_has_the_notes() -> None:
    lines = peer_results.markdown_of(LINES).split("\n")
    assert lines[2].startswith("| 16 bit | 16 | 22.20 | 1 | 0 |")
    assert lines[3].endswith("| 12 | 2.1 | a note |")
    assert {line.count("|") for line in lines} == {9}


def test_the_figure_shows_divergence_over_bits() -> None:
    chart = peer_results.chart_of(LINES)
    assert chart.logarithmic
    assert chart.series == ["LUQ", "llama.cpp"]
    assert list(chart.points["label"]) == ["trellis2 fitted", "gptq4", "IQ2_XXS"]
    assert chart.points["y"][0] == pytest.approx(0.5)
    assert chart.points["x"][2] == 2.06


class Letters:
    """A tokenizer with a token for each letter, `bs` for both, and one that begins a text."""

    def __call__(self, text: str, add_special_tokens: bool = True, **options: Any) -> Any:
        ids = [ord(letter) for letter in text.replace("bs", "\x01")]
        begin = [0] if add_special_tokens else []
        return type("Encoded", (), {"input_ids": begin + ids})()

    def decode(self, ids: list[int], **options: Any) -> str:
        return "".join(chr(each) for each in ids).replace("\x01", "bs")


def test_every_window_begins_as_a_text() -> None:
    windows = peers.windows_of(Letters(), "abcdefghij", 3, 4)
    assert windows.tolist() == [[0, 97, 98, 99], [0, 100, 101, 102], [0, 103, 104, 105]]
    with pytest.raises(DataError, match="ask for fewer --windows"):
        peers.windows_of(Letters(), "abcdefghij", 4, 4)


def test_pieces_have_as_many_tokens_as_they_had() -> None:
    assert peers.pieces_of(Letters(), "abcdefghijkl", 2, 4) == ["abc", "ghi"]
    # a token b and a token s next to it are one when they are read again
    split = Letters()
    ids = [ord(letter) for letter in "bsdefghijkl"]
    read = type("Encoded", (), {"input_ids": ids})()
    split_first = type("First", (Letters,), {})()
    split_first.__class__.__call__ = lambda self, text, **options: (
        read if len(text) > 9 else split(text, **options)
    )
    assert peers.pieces_of(split_first, "bsdefghijkl", 1, 4) == ["sde"]
    with pytest.raises(DataError, match="ask for fewer --tokens"):
        peers.pieces_of(Letters(), "abcdef", 2, 4)


def test_a_reading_is_cross_entropy_and_divergence() -> None:
    generator = torch.Generator().manual_seed(0)
    head = nn.Linear(4, 11, bias=False)
    length = peers.PLACES + 3  # more than are in memory at once
    hidden = torch.randn(2, length, 4, generator=generator)
    others = torch.randn(2, length, 4, generator=generator)
    windows = torch.randint(0, 11, (2, length + 1), generator=generator)
    reading = peers.reading_of(head, hidden, others, windows)
    expected = nn.functional.cross_entropy(head(hidden[1]), windows[1, 1:])
    assert reading.losses[1] == pytest.approx(expected.item(), rel=1e-5)
    q, p = head(hidden[0]).log_softmax(-1), head(others[0]).log_softmax(-1)
    divergence = nn.functional.kl_div(q, p, reduction="batchmean", log_target=True)
    assert reading.divergences[0] == pytest.approx(divergence.item(), rel=1e-5)
    assert peers.reading_of(head, hidden, hidden, windows).divergences == [0.0, 0.0]


def command(tmp_path: Path, *words: str) -> Any:
    (tmp_path / "text.txt").write_text("a text", encoding="utf-8")
    text = str(tmp_path / "text.txt")
    return peers.parser_of_command().parse_args(
        [
            str(tmp_path / "results.jsonl"),
            "--model",
            str(tmp_path),
            "--calibration",
            text,
            "--text",
            text,
            *words,
        ]
    )


def test_what_is_missing_is_left_out_with_a_sentence(tmp_path: Path) -> None:
    rows = peers.rows_of(
        command(tmp_path, "--gptq", str(tmp_path), "--billm", str(tmp_path / "no"))
    )
    wanted = ["trellis2", "gptq3", "GPTQ 3", "BiLLM", "llama.cpp Q4_K_M"]
    console = Console(width=200, file=io.StringIO(), record=True)
    assert peers.missing_rows(wanted, rows, ["gptq3"], console) == ["trellis2", "GPTQ 3"]
    written = console.export_text()
    assert "left out: BiLLM: " in written
    assert "left out: llama.cpp Q4_K_M: llama.cpp needs --gguf" in written


def test_grids_are_in_groups_that_all_can_store(tmp_path: Path) -> None:
    rows = peers.rows_of(command(tmp_path))
    tier = rows["gptq3"].peer.tier  # type: ignore[attr-defined]
    assert (tier.bits, tier.group_size) == (3, 64)
    assert rows["trellis2 fitted"].peer.fit  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_families.write(tmp_path_factory.mktemp("tiny"), "llama")


def subject_of(folder: Path, store: Path, linears: list[str]) -> peer_methods.Subject:
    model = luq.load(folder, store=store)
    model.vlm.restore()
    texts = ["one text and another " * 24, "what is there to say of all this " * 20]
    samples = calibration_of(model, [{"text": text} for text in texts])
    found = samples_of(samples, model.store.tools)
    return peer_methods.Subject(model, texts, found, peers.chosen_of(model, linears))


def test_one_of_our_tiers_in_some_linears(folder: Path, tmp_path: Path) -> None:
    subject = subject_of(folder, tmp_path, ["down_proj"])
    with pytest.raises(ConfigError, match="--linears other: the layers have q_proj"):
        peers.chosen_of(subject.model, ["other"])
    weights = sum(module.weight.numel() for module in subject.all_linears().values())
    up = subject.model.vlm.layers[0].mlp.up_proj
    made = peers.Tier(RtnTier(bits=4, group_size=64)).quantize(subject)
    # 4 + (16 + 4) / 64 bits, and what a file says of itself
    assert 4.25 <= 8 * made.stored_bytes / weights < 6
    packed = subject.model.vlm.layers[0].mlp
    inputs = torch.eye(64)
    assert torch.allclose(packed.up_proj(inputs), up(inputs), atol=1e-4)  # in fp16
    assert type(packed.down_proj) is not nn.Linear


def test_an_imatrix_is_the_mean_square_of_inputs(folder: Path, tmp_path: Path) -> None:
    subject = subject_of(folder, tmp_path, [])
    energies = peer_methods.column_energies(subject)
    layer = subject.model.vlm.layers[0]
    assert torch.equal(energies[0, "self_attn.q_proj"], energies[0, "self_attn.v_proj"])
    total = torch.zeros(layer.self_attn.q_proj.in_features)
    embeddings = subject.model.vlm.model.get_input_embeddings()
    for sample in subject.samples.samples:
        total += layer.input_layernorm(embeddings(sample.input_ids)).square().sum(0)
    expected = total / subject.samples.tokens
    assert torch.allclose(energies[0, "self_attn.q_proj"], expected, rtol=1e-4)


class Halving(peer_methods.Reference):
    """Halves weights, and notes the inputs that it saw."""

    seen: list[tuple[int, float]]
    note = "halved"

    def prepare(self) -> None:
        pass

    def collector(self, module: nn.Linear) -> Any:
        return HalvingCollector(self, module)

    def finish(self, collector: Any) -> None:
        collector.module.weight.data /= 2

    def bytes_of(self, module: nn.Linear) -> int:
        return module.weight.numel()


class HalvingCollector:
    def __init__(self, owner: Halving, module: nn.Linear) -> None:
        self.module = module
        self.owner = owner
        self.energy = 0.0

    def add_batch(self, inputs: torch.Tensor, output: torch.Tensor) -> None:
        assert output.shape[-1] == self.module.out_features
        self.energy += float(inputs.square().sum())

    def free(self) -> None:
        self.owner.seen.append((self.module.in_features, self.energy))


def test_a_reference_sees_what_quantized_layers_give(folder: Path, tmp_path: Path) -> None:
    subject = subject_of(folder, tmp_path, ["v_proj", "down_proj"])
    whole = peer_methods.column_energies(subject)
    before = {key: module.weight.clone() for key, module in subject.all_linears().items()}
    reference = Halving(tmp_path)
    object.__setattr__(reference, "seen", [])
    made = reference.quantize(subject)
    for key, module in subject.all_linears().items():
        assert torch.equal(module.weight, before[key] / 2)
    assert made == (sum(weight.numel() for weight in before.values()), "halved")
    widths = [width for width, _energy in reference.seen]
    assert widths == [64, 128] * subject.model.layers
    # both linears of a layer in one pass: the first layer sees the 16-bit model's inputs
    tokens = subject.samples.tokens
    assert reference.seen[1][1] == pytest.approx(
        float(whole[0, "mlp.down_proj"].sum()) * tokens, rel=1e-4
    )
    last = float(whole[subject.model.layers - 1, "mlp.down_proj"].sum()) * tokens
    assert reference.seen[-1][1] != pytest.approx(last, rel=1e-3)


# A Gemma 3 of one layer, as llama.cpp's file has it.
TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "  ", "\u2581", "a", "b", "ab", "\u2581ab"]
GEMMA_SHAPES = {
    "token_embd": (len(TOKENS), 32), "output_norm": (32,), "blk.0.attn_norm": (32,), "blk.0.attn_q": (32, 32),
    "blk.0.attn_k": (16, 32), "blk.0.attn_v": (16, 32), "blk.0.attn_output": (32, 32), "blk.0.attn_q_norm": (16,),
    "blk.0.attn_k_norm": (16,), "blk.0.post_attention_norm": (32,), "blk.0.ffn_norm": (32,), "blk.0.ffn_gate": (64, 32),
    "blk.0.ffn_up": (64, 32), "blk.0.ffn_down": (32, 64), "blk.0.post_ffw_norm": (32,),
}  # fmt: skip


def gemma_file(file: Path, architecture: str = "gemma3", scores: int = len(TOKENS)) -> Path:
    writer = gguf.GGUFWriter(file, architecture)
    writer.add_block_count(1)
    writer.add_context_length(128)
    writer.add_embedding_length(32)
    writer.add_feed_forward_length(64)
    writer.add_head_count(2)
    writer.add_head_count_kv(1)
    writer.add_key_length(16)
    writer.add_sliding_window(8)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(1e6)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(TOKENS)
    writer.add_token_scores([-float(index) for index in range(scores)])
    kinds = [gemma3.CONTROL] * 5 + [gemma3.USER_DEFINED] + [1] * 5
    writer.add_token_types(kinds)
    for index, name in enumerate(("pad", "eos", "bos", "unk")):
        getattr(writer, f"add_{name}_token_id")(index)
    for name, shape in GEMMA_SHAPES.items():
        writer.add_tensor(f"{name}.weight", np.full(shape, 1.5, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def test_a_gemma_of_a_gguf_file(tmp_path: Path) -> None:
    source = gemma3.GgufGemma(gemma_file(tmp_path / "gemma.gguf"))
    weights = dict(source.weights())
    # llama.cpp's file has the 1 of a norm in it; transformers adds it
    assert weights["model.layers.0.self_attn.q_norm.weight"].unique().tolist() == [0.5]
    assert weights["model.layers.0.pre_feedforward_layernorm.weight"].unique().tolist() == [0.5]
    assert weights["model.layers.0.mlp.up_proj.weight"].unique().tolist() == [1.5]
    assert source.config.layer_types == ["sliding_attention"]
    assert source.config.rope_parameters["sliding_attention"]["rope_theta"] == 10000.0
    tokenizer = source.tokenizer()
    assert tokenizer("ab  a ab").input_ids == [2, 9, 5, 7, 10]
    assert tokenizer("").input_ids == [2]


def test_other_files_are_no_gemma(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="its architecture is 'llama', and should be gemma3"):
        gemma3.GgufGemma(gemma_file(tmp_path / "llama.gguf", "llama"))
    source = gemma3.GgufGemma(gemma_file(tmp_path / "scores.gguf", scores=3))
    with pytest.raises(ModelError, match="not as many as their scores"):
        source.tokenizer()
