import shutil
from pathlib import Path

import pytest
from datasets import Dataset
from datasets.data_files import DataFilesDict
from datasets.load import configure_builder_class
from datasets.packaged_modules.parquet.parquet import Parquet, ParquetConfig

from luq.config import EvaluationConfig
from luq.errors import DataError
from luq.evaluation import answers
from luq.evaluation import ask as harness
from luq.evaluation.predictions import Predictions
from luq.models.vlm import VLM
from luq.questions import specs, subsets, tables
from luq.questions.sources import evaluation_table
from luq.questions.subsets import Subset
from luq.questions.tables import Questions
from luq.store.store import Store
from tests.conftest import BENCHMARKS
from tests.luq.questions.clones import ROWS, clone, picture


def opened(name: str, config: EvaluationConfig, cache: Path) -> Questions:
    """The questions of a benchmark."""
    return evaluation_table(name, config, cache).open(Store(cache).tools)


def config(folder: Path | str, **more) -> EvaluationConfig:
    return EvaluationConfig("test", BENCHMARKS, data=str(folder), split="all", **more)


@pytest.mark.parametrize("name", [*BENCHMARKS, "textvqa_ocr"])
def test_the_real_layouts_run_through_lm_eval(lm, tmp_path: Path, name: str) -> None:
    """A clone of the dataset repository, as it lies on the hub: configurations, splits, columns,
    grey and RGBA pictures.
    """
    clone(tmp_path, specs.spec(name).data)
    questions = opened(name, config(tmp_path), tmp_path / "cache")
    ids = subsets.choose(questions, Subset("all"))
    rows = harness.ask(lm, questions, ids, Predictions(tmp_path / "kept.jsonl"), strict=True)
    assert [row["id"] for row in rows] == list(range(len(ROWS[specs.spec(name).data])))
    summary = answers.summarise(name, harness.with_docs(questions, rows))
    units = {"mme": 3, "mmbench": 2}.get(name, len(rows))
    assert summary.n == len(summary.units) == units
    assert sum(summary.weights) == pytest.approx(1)


def test_gqa_finds_its_images_in_the_second_table(tmp_path: Path) -> None:
    clone(tmp_path, "gqa")
    questions = opened("gqa", config(tmp_path), tmp_path / "cache")
    assert list(questions.image_rows) == [0, 1, 0, 1]
    assert len(questions.images) == 2, "images are not copied per question"
    assert questions.image(0).convert("RGB").size == (90, 60)


def test_a_lost_image_and_a_broken_one_name_their_row(tmp_path: Path) -> None:
    rows = [
        {
            "question": "?",
            "answer": "1",
            "type": "human_test",
            "image": {"bytes": b"no png", "path": None},
        }
    ]
    Dataset.from_list(rows).to_parquet(tmp_path / "chartqa.parquet")
    questions = opened("chartqa", config(tmp_path), tmp_path / "cache")
    with pytest.raises(DataError, match="chartqa row 0: the image does not decode"):
        questions.image(0).convert("RGB")
    lost = tables.LazyImage(questions.images, -1, "gqa row 7")
    with pytest.raises(DataError, match="gqa row 7: there is no such image"):
        lost.convert()


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    Dataset.from_list([{"question": "?", "image": picture(0)}]).to_parquet(
        tmp_path / "chartqa.parquet"
    )
    with pytest.raises(DataError, match=r"questions of chartqa .* lack the column answer, type"):
        opened("chartqa", config(tmp_path), tmp_path / "cache")


def test_missing_data_names_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=r"gqa\.parquet is missing: give a parquet file, .* clone of lmms-lab-encoder/GQA",
    ):
        opened("gqa", config(tmp_path), tmp_path / "cache")


def test_the_organisation_is_one_value_with_the_old_name_as_fallback(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tried = []

    def refuse(path: str, *args) -> None:
        tried.append(path)
        raise ConnectionError("offline")

    monkeypatch.setattr(tables, "_hub_builder", refuse)
    with pytest.raises(
        DataError,
        match=r"cannot be read .*offline.*: connect to the hub, or name local ones: evaluation.data",
    ):
        opened("pope", config("hub"), tmp_path)
    with pytest.raises(DataError):
        opened("pope", config("hub", organisation="mine"), tmp_path)
    with pytest.raises(DataError):
        opened("mathvista", config("hub"), tmp_path)
    assert tried == [
        "lmms-lab-encoder/POPE",
        "lmms-lab/POPE",
        "mine/POPE",
        "lmms-lab/POPE",
        "AI4Math/MathVista",
    ]


def test_one_benchmark_can_have_its_own_file(tmp_path: Path) -> None:
    for name, answer in (("a", "1"), ("b", "2")):
        row = {"question": "?", "answer": answer, "type": "human_test", "image": picture(0)}
        (tmp_path / name).mkdir()
        Dataset.from_list([row]).to_parquet(tmp_path / name / "chartqa.parquet")
    file = str(tmp_path / "b" / "chartqa.parquet")
    cache = tmp_path / "cache"
    own = evaluation_table("chartqa", config(tmp_path / "a", sources={"chartqa": file}), cache)
    assert own.open(Store(cache).tools).docs[0]["answer"] == "2"
    assert own != evaluation_table("chartqa", config(tmp_path / "a"), cache)


def test_a_table_is_its_content_and_not_its_place(tmp_path: Path) -> None:
    tables = []
    for place in ("one", "two"):
        clone(tmp_path / place, "gqa")
        tables.append(evaluation_table("gqa", config(tmp_path / place), tmp_path / "cache"))
    assert tables[0] == tables[1]


def test_a_longer_answer_limit_is_another_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The task's YAML decides what is generated: stop strings, answer length, prompts."""
    before = evaluation_table("gqa", EvaluationConfig("t", ["gqa"]), tmp_path)
    tasks = tmp_path / "tasks"
    shutil.copytree(specs.TASKS, tasks)
    shared = (tasks / "_shared.yaml").read_text()
    (tasks / "_shared.yaml").write_text(shared.replace("max_gen_toks: 16", "max_gen_toks: 17"))
    monkeypatch.setattr(specs, "TASKS", tasks)
    specs.task_digest.cache_clear()
    after = evaluation_table("gqa", EvaluationConfig("t", ["gqa"]), tmp_path)
    specs.task_digest.cache_clear()
    assert before != after


def bad_rows(folder: Path) -> Path:
    """Five questions: three of them with something wrong."""
    good = {
        "question": "What is the value of UK?",
        "answer": "3",
        "type": "human_test",
        "image": picture(1),
    }
    broken = good | {"image": {"bytes": b"broken", "path": None}}
    rows = [good, broken, good | {"answer": ""}, good | {"question": "word " * 3000}, good]
    Dataset.from_list(rows).to_parquet(folder / "chartqa.parquet")
    return folder


def test_bad_rows_are_counted_as_errors_and_never_dropped(lm, tmp_path: Path) -> None:
    questions = opened("chartqa", config(bad_rows(tmp_path)), tmp_path / "cache")
    rows = harness.ask(lm, questions, [0, 1, 2, 3, 4], Predictions(tmp_path / "kept.jsonl"))
    assert [row["id"] for row in rows] == [0, 1, 2, 3, 4]
    assert ["error" in row for row in rows] == [False, True, True, True, False]
    assert "chartqa row 1: the image does not decode" in rows[1]["error"]
    assert rows[2]["error"] == "the row has no answer: it is unlabelled"
    assert "longer than the context allows" in rows[3]["error"]
    summary = answers.summarise("chartqa", harness.with_docs(questions, rows))
    assert summary.n == 5
    assert summary.units[1:4] == [0, 0, 0]


@pytest.mark.parametrize(
    ("row", "match"),
    [
        (1, "row 1: .*does not decode"),
        (2, "row 2: the row has no answer"),
        (3, "row 3: a prompt of"),
    ],
)
def test_strict_stops_at_a_bad_row(lm, tmp_path: Path, row: int, match: str) -> None:
    questions = opened("chartqa", config(bad_rows(tmp_path)), tmp_path / "cache")
    with pytest.raises(DataError, match=match):
        harness.ask(lm, questions, [0, row], Predictions(tmp_path / "kept.jsonl"), strict=True)


@pytest.fixture(scope="module")
def lm(vlm: VLM):
    return harness.make_lm(vlm, 4)


COMMITS = ["a" * 40, "b" * 40]


class Hub:
    """Stands for the network: gives the builder that `datasets` makes of a repository of parquet
    files at a commit.
    """

    def __init__(self, files: list[Path]) -> None:
        self.files = DataFilesDict({"test": [str(file) for file in files]})
        self.commit = COMMITS[0]

    def builder(self, path: str, name: str | None, cache: Path, download: bool) -> Parquet:
        dataset = path.rpartition("/")[2]
        configured = configure_builder_class(
            Parquet,
            builder_configs=[ParquetConfig(name="default", data_files=self.files)],
            default_config_name="default",
            dataset_name=dataset,
        )
        builder = configured(cache_dir=str(cache), dataset_name=dataset, hash=self.commit)
        # A builder that is made for a repository takes none but the hub's own files.
        builder.repo_id = path
        builder._cache_dir = builder._output_dir = builder._build_cache_dir()
        return builder


def test_what_was_read_from_the_hub_is_the_same_without_a_connection(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`luq status` and `--plan` fetch nothing, and a node without internet goes on."""
    hub = Hub([*clone(tmp_path, "chartqa").rglob("*.parquet")])
    settings = config("hub")
    cache = tmp_path / "cache"
    with pytest.raises(DataError, match="cannot be read"):
        evaluation_table("chartqa", settings, cache, download=False)
    with monkeypatch.context() as connected:
        connected.setattr(tables, "_hub_builder", hub.builder)
        online = evaluation_table("chartqa", settings, cache)
    shutil.rmtree(tmp_path / "chartqa")
    assert evaluation_table("chartqa", settings, cache) == online
    without_download = evaluation_table("chartqa", settings, cache, download=False)
    assert without_download == online
    questions = without_download.open(Store(cache).tools)
    assert len(questions.docs) == len(ROWS["chartqa"])
    assert questions.image(0).convert("RGB").size == (90, 60)


def test_another_commit_of_a_repository_is_another_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub = Hub([*clone(tmp_path, "chartqa").rglob("*.parquet")])
    monkeypatch.setattr(tables, "_hub_builder", hub.builder)
    first = evaluation_table("chartqa", config("hub"), tmp_path / "cache")
    hub.commit = COMMITS[1]
    assert evaluation_table("chartqa", config("hub"), tmp_path / "cache") != first
    with pytest.raises(DataError, match="changed since this run began"):
        first.open(Store(tmp_path / "cache").tools)
