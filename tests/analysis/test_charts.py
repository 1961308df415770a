"""What the figures show of records with known answers, and that both renderers draw it."""

import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import vl_convert

from analysis import ablations, compare, costs, figures, frame, interactive, layers, paper, pareto
from analysis.charts import Lines, Palette
from analysis.loading import load
from analysis.sections import Chapter
from luq.allocation.allocations import LinearTier
from luq.allocation.reports import PlanReport
from pipelines.record import RunRecord
from tests.analysis.conftest import studied
from tests.analysis.synthetic import LAYERS, REST, ladder, many, mixed, record


def rows(chart: Lines | None) -> list[tuple[str, float, float]]:
    assert chart is not None
    return [
        (s, x, round(y, 6))
        for s, x, y in chart.points[["series", "x", "y"]].itertuples(index=False)
    ]


def alphas() -> list[RunRecord]:
    kinds = [(k, a) for k in (2, 4) for a in (0.0, 0.5, 1.0)]
    return [mixed(k, 40 + 10 * a + k, **{"calibration.alpha": a}) for k, a in kinds]


def test_pareto_chart_holds_every_plan_and_the_steps_of_the_front(demo: Path) -> None:
    study = frame.studies(load(demo))[0]
    chart = ablations.pareto_chart(study, pareto.pareto_info(study))
    assert len(chart.points) == len(study.plans) - 1
    assert chart.rule is not None
    assert chart.rule[1].strip() == f"16-bit: {study.plans['checkpoint_bytes'].max() / 1e6:.3g} MB"
    assert chart.steps is not None
    assert list(chart.steps["y"]) == pytest.approx([100 * s / 80 for s in (40, 76, 79, 80)])
    assert chart.points.set_index("label")["hollow"].to_dict()["billm, propagation high"]
    point = chart.points.set_index("label").loc["gptq3"]
    assert point["high"] - point["y"] == pytest.approx(100 * 1.96 * (2 / 3**0.5) / 80)
    assert set(chart.points["series"]) == {
        "uniform",
        "billm / gptq4, multimodal",
        "billm / gptq4, text-only",
    }


def test_many_families_are_merged_until_they_can_be_told_apart(tmp_path: Path) -> None:
    study = studied(tmp_path, list(many(200)))
    names = ablations.families(study.plans)
    assert 1 < names.nunique() <= 7
    assert "uniform" in set(names)


def test_tradeoff_has_the_number_of_low_layers_above(demo: Path) -> None:
    chart = ablations.tradeoff_chart(frame.studies(load(demo))[0])
    assert chart is not None
    assert chart.top is not None
    assert [text for _, text in chart.top[1]] == ["2", "4", "6"]
    assert chart.top[1] == sorted(
        chart.top[1], key=lambda tick: -tick[0]
    )  # more low layers, fewer bits
    assert chart.top.title == "layers in billm (the others gptq4)"
    assert chart.points["x"].max() < ablations.HIGHEST
    assert chart.joined == {"billm / gptq4, multimodal", "billm / gptq4, text-only"}


def test_uniform_runs_alone_have_no_tradeoff(tmp_path: Path) -> None:
    study = studied(tmp_path, ladder())
    assert ablations.tradeoff_chart(study) is None
    assert ablations.orders_chart(study) is None
    assert ablations.paper_chart(study) is None
    assert layers.correlation_chart(study) is None


def test_alpha_is_a_line_per_k(tmp_path: Path) -> None:
    chart = ablations.along_chart(studied(tmp_path, alphas()), "alpha", "alpha", "alpha", "")
    assert rows(chart)[:3] == [("k = 2", 0.0, 52.5), ("k = 2", 0.5, 58.75), ("k = 2", 1.0, 65.0)]
    assert chart is not None
    assert chart.series == ["k = 2", "k = 4"]


def test_a_single_value_is_no_ablation(tmp_path: Path) -> None:
    assert (
        ablations.along_chart(studied(tmp_path, [mixed(2, 50.0)]), "alpha", "alpha", "alpha", "")
        is None
    )


def test_orders_best_first(tmp_path: Path) -> None:
    runs = [
        mixed(2, s, **{"order.name": o})
        for o, s in (("entropy", 40.0), ("lim", 60.0), ("random", 50.0), ("depth", 20.0))
    ]
    chart = ablations.orders_chart(studied(tmp_path, runs))
    assert [r[0] for r in rows(chart)] == ["lim", "random", "entropy", "depth"]


def test_stability_is_the_kendall_distance_of_neighbours(tmp_path: Path) -> None:
    runs = [mixed(2, 50.0, **{"profile.clusters": c}) for c in (50, 100, 150)]
    reverse = [replace(entropy, mean=-entropy.mean) for entropy in runs[2].profile]
    runs[2] = replace(runs[2], profile=reverse)
    chart = ablations.stability_chart(studied(tmp_path, runs))
    assert rows(chart) == [
        ("entropy over all tokens", 100, 0.0),
        ("entropy over all tokens", 150, 1.0),
    ]
    assert ablations.stability_chart(studied(tmp_path / "b", runs[:2])) is None
    another_set = replace(runs[1].calibration, hash="another set")  # its ranking says nothing of K
    runs[1] = replace(runs[1], calibration=another_set)
    assert ablations.stability_chart(studied(tmp_path / "c", runs)) is None


def test_entropy_marks_the_layers_that_went_low(tmp_path: Path) -> None:
    chart = layers.entropy_chart(
        studied(tmp_path, [mixed(2, 50.0), mixed(2, 50.0, **{"calibration.name": "text"})])
    )
    assert chart is not None
    marked = chart.points[chart.points["hollow"].astype(bool)]
    assert list(marked["x"]) == [0, 1]
    assert set(marked["series"]) == {"all tokens, multimodal 0.5 calibration"}
    assert len(chart.series) == 4


def test_rank_correlations(tmp_path: Path) -> None:
    runs = [mixed(2, 50.0, **{"order.name": n}) for n in ("entropy", "entropy_reverse", "lim")]
    runs[1] = replace(runs[1], order=list(reversed(range(LAYERS))))
    chart = layers.correlation_chart(studied(tmp_path, runs))
    assert chart is not None
    cells = chart.cells.set_index(["row", "column"])["value"]
    assert cells["entropy", "entropy_reverse"] == pytest.approx(-1)
    assert cells["entropy", "lim"] == pytest.approx(1)
    places = layers.places_chart(studied(tmp_path, runs))
    assert places is not None
    assert places.cells.set_index(["row", "column"])["value"]["entropy_reverse", "0"] == LAYERS


def test_a_packed_part_is_one_piece_of_a_bar() -> None:
    ledger = {"codes": 5, "header": 1, "vision": 2, "vision codes": 3, "vision header": 4}
    assert costs.by_part(ledger) == {"codes": 5, "header": 1, "vision": 9}


def test_the_ledger_sums_to_the_checkpoint(demo: Path) -> None:
    study = frame.studies(load(demo))[0]
    info = pareto.pareto_info(study)
    chart = costs.ledger_chart(study, info)
    sums = chart.parts.groupby("bar")["value"].sum() * 1e6
    sizes = info.points.set_index("label")["bytes"]
    assert all(sums[label] == pytest.approx(sizes[label]) for label in sums.index)
    assert chart.parts.set_index(["bar", "part"])["value"]["gptq4", "vision"] == REST / 1e6


def test_time_is_computed_or_read(demo: Path) -> None:
    study = frame.studies(load(demo))[0]
    parts = costs.time_chart(study.records).parts.set_index(["bar", "part"])["value"] * 60
    n = len(study.records)
    assert parts["evaluate", "computing"] == pytest.approx(2 * n)
    assert parts["quantize", "reading the store"] == pytest.approx(n)
    assert parts["quantize", "computing"] == 0


def test_a_heat_map_shows_what_can_be_read(tmp_path: Path) -> None:
    study = studied(tmp_path, list(many(300)))
    info = pareto.pareto_info(study)
    chart = costs.retention_chart(study, info)
    assert len(chart.rows) <= costs.MANY
    assert {"gptq4", "float16"} <= set(chart.rows)
    assert "left out" in chart.caption
    few = studied(tmp_path / "b", ladder())
    chart = costs.retention_chart(few, pareto.pareto_info(few))
    assert chart.rows == ["gptq2", "gptq3", "gptq4", "gptq8", "float16"]
    assert chart.columns == ["gqa", "mme", "pope", "mean"]


def test_a_benchmark_without_a_16_bit_score_is_an_empty_cell(tmp_path: Path) -> None:
    runs = mixed(2, 40.0)
    pope = replace(runs.scores["pope"], float_score=0.0, retention=None)
    runs = replace(runs, scores={**runs.scores, "pope": pope})
    study = studied(tmp_path, [runs])
    cells = costs.retention_chart(study, pareto.pareto_info(study)).cells.set_index("column")
    assert cells.loc["pope", "text"] == "-"


def test_published_points() -> None:
    assert paper.nominal_bits(16, 32) == 2.54
    assert paper.nominal_bits(12, 28) == pytest.approx(2.75, abs=0.005)
    table = paper.published()
    assert table["y"].max() < 100
    luq = table[table["label"] == "LUQ, 12 layers 2.75"].iloc[0]
    assert luq["y"] == pytest.approx(100 * 2240 / 2335)


def test_the_paper_lies_under_ours(demo: Path) -> None:
    chart = ablations.paper_chart(frame.studies(load(demo))[0])
    assert chart is not None
    assert chart.quiet == {"published: LLaVA-1.5-7B", "published: Qwen2.5-VL-7B"}
    measured = chart.points[~chart.points["series"].isin(chart.quiet)]
    assert {"pocket_test: billm / gptq4, multimodal", "pocket_test: uniform"} <= set(
        measured["series"]
    )
    assert "nominal" in chart.x
    assert "not a 7B model" in chart.caption


def test_the_main_table_of_the_paper() -> None:
    """The four rows that the two versions of the project page give differently."""
    rows = {(row.model, row.method, row.bits): row for row in paper.MAIN}
    expected = {
        (paper.LLAVA, "BiLLM", 1.08): (7.4, 15.6),
        (paper.LLAVA, "LUQ, 16 layers", 2.54): (46.7, 53.4),
        (paper.QWEN, "FP16", 16.0): (82.6, 84.9),
        (paper.QWEN, "GPTQ", 4.0): (80.2, 84.2),
    }
    places = [paper.BENCHMARKS.index(name) for name in ("MMBench", "TextVQA")]
    for place, scores in expected.items():
        assert tuple(rows[place].scores[i] for i in places) == scores
    later = {place for place, row in rows.items() if row.source == paper.LATER_PAGE}
    assert later == set(expected)
    assert all(len(row.scores) == len(paper.BENCHMARKS) for row in paper.MAIN)
    # on every benchmark that was asked no quantized model is above its own 16 bit
    for model in (paper.LLAVA, paper.QWEN):
        original, *quantized = [row for row in paper.MAIN if row.model == model]
        for row in quantized:
            pairs = zip(row.scores, original.scores, strict=True)
            assert all(a is None or b is None or a <= b for a, b in pairs), row


def test_points_carry_their_names_if_they_are_few(demo: Path, tmp_path: Path) -> None:
    study = frame.studies(load(demo))[0]
    chart = ablations.pareto_chart(study, pareto.pareto_info(study))
    assert set(chart.named["label"]) == set(chart.points["label"])
    specification = interactive.spec(chart)
    (points,) = [layer for layer in specification["layer"] if layer.get("name")]
    assert specification["usermeta"] == {"names": points["name"]}
    crowd = studied(tmp_path / "many", list(many(200)))
    chart = ablations.pareto_chart(crowd, pareto.pareto_info(crowd))
    info = pareto.pareto_info(crowd).points
    important = info[(info["baseline"] | info["front"]) & (info["tier"] != "float16")]
    assert set(chart.named["label"]) == set(important["label"]) > {"gptq2", "gptq3", "gptq4"}


def test_layers_and_k_have_whole_ticks(full: Chapter, tmp_path: Path) -> None:
    charts = {chart.name: chart for section in full.sections for chart in section.charts}
    whole = {n for n, c in charts.items() if isinstance(c, Lines) and c.whole}
    assert whole == {"entropy", "orders", "clusters", "stability"}
    svg = vl_convert.vegalite_to_svg(
        json.dumps(interactive.spec(charts["entropy"]) | {"width": 600})
    )
    assert ">decoder layer<" in svg
    assert ">1<" in svg
    assert ">0.5<" not in svg


def test_both_renderers_have_a_logarithmic_axis() -> None:
    table = pd.DataFrame(
        {
            "series": "a",
            "x": [1, 2, 3],
            "y": [0.01, 0.1, 1],
            "low": [0.009, 0.09, 0.9],
            "high": [0.02, 0.2, 2],
        }
    )
    chart = Lines("log", "A title", "A caption", table, "x", "y", logarithmic=True)
    svg = vl_convert.vegalite_to_svg(json.dumps(interactive.spec(chart) | {"width": 600}))
    assert ">0.01<" in svg
    with figures.plt.rc_context(figures.STYLE):
        drawn = figures.DRAW[Lines](chart)
        drawn.draw_without_rendering()
        axes = drawn.axes[0]
        assert axes.get_yscale() == "log"
        names = [label.get_text() for label in axes.get_yticklabels()]
        figures.plt.close(drawn)
    assert {"0.01", "0.1", "1"} <= set(names)


def test_the_top_axis_is_one_with_a_title_and_its_own_ticks(demo: Path) -> None:
    chart = ablations.tradeoff_chart(frame.studies(load(demo))[0])
    assert chart is not None
    svg = vl_convert.vegalite_to_svg(json.dumps(interactive.spec(chart) | {"width": 600}))
    assert ">layers in billm (the others gptq4)<" in svg
    assert svg.count(">stored bits per weight<") == 1
    for k in (2, 4, 6):
        assert f">{k}<" in svg


def test_every_series_looks_different() -> None:
    palette = Palette([f"s{i}" for i in range(40)], frozenset({"s0", "s1"}))
    looks = [(palette.colours[n], palette.marks[n]) for n in palette.names]
    assert len(set(looks)) == 40


@pytest.fixture
def full(tmp_path: Path, demo: Path) -> Chapter:
    """A chapter in which every figure has something to show."""
    runs = [*alphas(), *(mixed(2, 50.0, **{"profile.clusters": c}) for c in (50, 150, 250))]
    runs += [mixed(k, 50.0, **{"order.name": o}) for o in ("lim", "kl", "depth") for k in (2, 4)]
    runs += [mixed(2, 55.0, **{"quantizer.propagation": "exact"})]
    return Chapter(studied(tmp_path, runs), compare.Reader(tmp_path))


def test_both_renderers_draw_every_figure(full: Chapter, tmp_path: Path) -> None:
    charts = {chart.name: chart for section in full.sections for chart in section.charts}
    memory = {"pareto", "tradeoff_stored", "tradeoff_nominal", "retention", "ledger", "time"}
    profiles = {"orders_difference", "orders", "correlations", "places", "entropy", "stability"}
    assert set(charts) == memory | profiles | {"calibration", "alpha", "clusters", "paper"}
    for name, chart in charts.items():
        png, pdf = figures.save(chart, tmp_path)
        assert png.read_bytes().startswith(b"\x89PNG"), name
        assert pdf.read_bytes().startswith(b"%PDF"), name
        specification = interactive.spec(chart)
        svg = vl_convert.vegalite_to_svg(
            json.dumps(specification | {"width": 600}, allow_nan=False)
        )
        assert svg.startswith("<svg"), name
        assert "NaN" not in svg, name
        assert chart.caption.endswith("."), name


def test_figures_are_the_same_every_time(full: Chapter, tmp_path: Path) -> None:
    chart = full.sections[0].charts[0]
    first = [f.read_bytes() for f in figures.save(chart, tmp_path)]
    assert [f.read_bytes() for f in figures.save(chart, tmp_path)] == first


def test_the_page_s_data_cannot_end_its_script() -> None:
    assert "</script" not in interactive.script({"a": "</script><b>"})
    assert json.loads(interactive.script({"a": "</script>"})) == {"a": "</script>"}


def test_the_tiers_of_linears_are_a_map_of_the_best_plan_that_has_them(tmp_path: Path) -> None:
    linears = ["attn.q_proj", "mlp.down_proj"]
    others = [LinearTier(layer, "mlp.down_proj", "gptq4") for layer in (1, 6)]
    plan = PlanReport(linears=linears)
    changes = {"quantizer.low": "gptq2", "allocation.k": LAYERS}
    best = replace(
        record("best", ["gptq2"] * LAYERS, 70.0, **changes), other_tiers=others, plan=plan
    )
    worse = replace(
        record("worse", ["gptq2"] * LAYERS, 50.0, seed=1), other_tiers=others[:1], plan=plan
    )
    study = studied(tmp_path, [*ladder(), best, worse])
    chart = layers.tiers_chart(study)
    assert chart is not None
    assert chart.rows == ["q_proj", "down_proj"]
    assert chart.columns == [str(layer) for layer in range(LAYERS)]
    cells = {(row, column): text for row, column, _, text in chart.cells.itertuples(index=False)}
    assert [cells["down_proj", str(layer)] for layer in range(LAYERS)] == [
        "4" if layer in (1, 6) else "2" for layer in range(LAYERS)
    ]
    assert {cells["q_proj", str(layer)] for layer in range(LAYERS)} == {"2"}
    assert "best, " in chart.caption
    assert "2: gptq2, 4: gptq4" in chart.caption
    assert layers.tiers_chart(studied(tmp_path / "plain", ladder())) is None
