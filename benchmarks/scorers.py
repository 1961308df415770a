"""Our scorers beside the field's, on the same questions and answers.

    python benchmarks/scorers.py PEERS [--answers OUTPUTS] [--pairs 20000]

PEERS is a folder with clones of any of lmms-eval, VLMEvalKit, VQA (the VQA tool), LLaVA and
MathVista. Printed are the disagreements, by how the answer is written, and for the responses that
MathVista's repository has our scores beside the published ones. --answers adds the kept answers of
finished runs.

Of a peer's file only the definitions that are asked for are run, with what they use: no package of
the peer is imported, and nothing is fetched or sent.
"""

import argparse
import ast
import contextlib
import copy
import importlib
import io
import json
import re
import tempfile
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from scorer_pairs import GENERATORS, Pair, generated

from luq.evaluation.answers import ANSWERS
from luq.evaluation.predictions import read_answers
from luq.evaluation.scorers import SCORERS
from luq.evaluation.scorers.summary import levenshtein
from luq.questions.prompts import LETTERS, Doc, choices, options
from luq.store.store import Store
from pipelines import runs_folder

SEED = 0
SHOWN = 4  # classes of disagreement in the table
LMMS = "lmms-eval/lmms_eval"
KIT = "VLMEvalKit/vlmeval"
out = Console(highlight=False, width=160, soft_wrap=True)

Score = Callable[[Doc, str], float]  # of one answer, in [0, 1]


class Silence:
    """Stands for a logger that is not installed."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *arguments, **options: None


def definitions(
    file: Path, names: Iterable[str], imported: dict[str, Any]
) -> types.SimpleNamespace:
    """Functions and classes of a peer's file, run without its package.

    Args:
        file: its source; the print statements of Python 2 are left out.
        names: what is asked for.
        imported: what stands for names that the file imports.

    Raises:
        OSError, SyntaxError, KeyError: the file or a name is not there.
    """
    source = re.sub(
        r"^(\s*)print \"[^\n]*$", r"\1pass", file.read_text(encoding="utf-8"), flags=re.M
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    defined: dict[str, ast.stmt] = {}
    namespace: dict[str, Any] = {"__name__": file.stem}
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            _run_import(node, namespace)
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            node.decorator_list = []
            defined[node.name] = node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            defined[node.targets[0].id] = node
    namespace |= imported
    used_names = _with_their_uses(names, defined, imported)
    body = [node for name, node in defined.items() if name in used_names]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(ast.Module(body, []), str(file), "exec"), namespace)
    return types.SimpleNamespace(**{name: namespace[name] for name in names})


def _run_import(node: ast.Import | ast.ImportFrom, namespace: dict[str, Any]) -> None:
    """Bind what an import gives; what is not installed stays unbound, and loggers are silent."""
    module = node.module if isinstance(node, ast.ImportFrom) else None
    for alias in node.names:
        name = alias.asname or alias.name.partition(".")[0]
        if "logger" in name:
            namespace[name] = Silence()
            continue
        if module and module.split(".")[0] in ("vlmeval", "lmms_eval"):
            continue
        with contextlib.suppress(ImportError, AttributeError):
            if module:
                namespace[name] = getattr(importlib.import_module(module), alias.name)
            else:
                imported = importlib.import_module(alias.name)
                namespace[name] = imported if alias.asname else importlib.import_module(name)


def _with_their_uses(
    names: Iterable[str], defined: dict[str, ast.stmt], imported: dict[str, Any]
) -> set[str]:
    """The names, and all that their definitions mention of the same file."""
    used_names: set[str] = set()
    pending = list(names)
    while pending:
        name = pending.pop()
        if name in used_names or name not in defined or name in imported:
            continue
        used_names.add(name)
        mentioned = (node.id for node in ast.walk(defined[name]) if isinstance(node, ast.Name))
        pending += mentioned
    return used_names


# MMBench -----------------------------------------------------------------------------------------


def kit_mmbench(peers: Path) -> Score:
    imported = {"logger": Silence()}
    kit = definitions(peers / KIT / "utils/matching_util.py", ["can_infer"], imported)

    def score(doc: Doc, text: str) -> float:
        return float(kit.can_infer(text, options(doc)) == doc["answer"])

    return score


def lmms_mmbench(peers: Path) -> Score:
    """The variant without a judge."""
    tasks = peers / LMMS / "tasks"
    evaluator = definitions(tasks / "mmbench/mmbench_evals.py", ["MMBench_Evaluator"], {})
    extraction = definitions(tasks / "_task_utils/mcq_extract.py", ["extract_mcq_answer"], {})
    rules = evaluator.MMBench_Evaluator(API_KEY="", API_URL="")

    def score(doc: Doc, text: str) -> float:
        letters = sorted(options(doc))
        letter = rules.can_infer(text, options(doc))
        return float((letter or extraction.extract_mcq_answer(text, letters)) == doc["answer"])

    return score


# MathVista ---------------------------------------------------------------------------------------


def official_mathvista(peers: Path) -> Score:
    """The official normalization of the answer itself, where a judge would extract first."""
    file = peers / "MathVista/evaluation/calculate_score.py"
    imported = {"distance": levenshtein}
    official = definitions(file, ["normalize_extracted_answer", "safe_equal"], imported)

    def score(doc: Doc, text: str) -> float:
        kind = doc["question_type"], doc["answer_type"]
        normalized = official.normalize_extracted_answer(
            text.strip(), choices(doc), *kind, doc["precision"]
        )
        return float(official.safe_equal(normalized, doc["answer"]))

    return score


def kit_mathvista(peers: Path) -> Score:
    """What VLMEvalKit reads before it asks a judge."""
    matching = definitions(
        peers / KIT / "utils/matching_util.py", ["can_infer"], {"logger": Silence()}
    )
    imported = {"can_infer": matching.can_infer}
    kit = definitions(peers / KIT / "dataset/utils/mathvista.py", ["post_check"], imported)

    def score(doc: Doc, text: str) -> float:
        line = doc | {"prediction": text, "choices": str(choices(doc))}
        if doc["question_type"] != "multi_choice":
            return float(kit.post_check(line, prefetch=True) is not False)
        right = LETTERS[choices(doc).index(doc["answer"])]
        return float(kit.post_check(line | {"answer_option": right}, prefetch=True) == right)

    return score


# Short answers -----------------------------------------------------------------------------------


def _evalai(peers: Path) -> dict[str, Any]:
    file = peers / LMMS / "tasks/_task_utils/vqa_eval_metric.py"
    return vars(definitions(file, ["EvalAIAnswerProcessor"], {}))


def lmms_textvqa(peers: Path) -> Score:
    file = peers / LMMS / "tasks/textvqa/utils.py"
    lmms = definitions(file, ["textvqa_process_results"], _evalai(peers))
    return lambda doc, text: float(lmms.textvqa_process_results(doc, [text])["exact_match"])


def llava_textvqa(peers: Path) -> Score:
    file = peers / "LLaVA/llava/eval/m4c_evaluator.py"
    llava = definitions(file, ["TextVQAAccuracyEvaluator"], {"tqdm": iter})
    evaluator = llava.TextVQAAccuracyEvaluator()

    def score(doc: Doc, text: str) -> float:
        entry = {"pred_answer": text, "gt_answers": doc["answers"]}
        return float(evaluator.eval_pred_list([entry]))

    return score


def _kit_line(peers: Path, method: str) -> Callable[[list[str], str], list[float]]:
    """VLMEvalKit's matches of an answer with each reference."""
    misc = definitions(
        peers / KIT / "smp/misc.py", ["istype", "listinstr", "process_punctuation"], {}
    )
    kit = definitions(peers / KIT / "dataset/utils/vqa_eval.py", ["process_line"], vars(misc))

    def matches(answers: list[str], text: str) -> list[float]:
        scores: list[float] = kit.process_line({"answer": answers, "prediction": text}, method)[
            "match"
        ]
        return scores

    # The file evaluates what it takes for the text of a list.
    kit.process_line.__globals__["eval"] = lambda answers: answers
    return matches


def kit_textvqa(peers: Path) -> Score:
    matches = _kit_line(peers, "vqa_score")

    def score(doc: Doc, text: str) -> float:
        of_annotators = matches(doc["answers"], text)
        return sum(of_annotators) / len(of_annotators)

    return score


def lmms_vqav2(peers: Path) -> Score:
    file = peers / LMMS / "tasks/vqav2/utils.py"
    lmms = definitions(file, ["vqav2_process_results"], _evalai(peers))
    return lambda doc, text: float(lmms.vqav2_process_results(doc, [text])["exact_match"])


def tool_vqav2(peers: Path) -> Score:
    file = peers / "VQA/PythonEvaluationTools/vqaEvaluation/vqaEval.py"
    tool = definitions(file, ["VQAEval"], {})

    def score(doc: Doc, text: str) -> float:
        question = doc | {"question_type": "", "answer_type": ""}
        questions = types.SimpleNamespace(getQuesIds=lambda: [1], qa={1: question})
        evaluation = tool.VQAEval(questions, types.SimpleNamespace(qa={1: {"answer": text}}), n=10)
        with contextlib.redirect_stdout(io.StringIO()):
            evaluation.evaluate()
        return float(evaluation.evalQA[1]) / 100

    return score


def lmms_gqa(peers: Path) -> Score:
    file = peers / LMMS / "api/metrics.py"
    lmms = definitions(file, ["exact_match_hf_evaluate"], {})
    rules = {"ignore_case": True, "ignore_punctuation": True}

    def score(doc: Doc, text: str) -> float:
        metrics = lmms.exact_match_hf_evaluate([text], [doc["answer"]], **rules)
        return float(metrics["exact_match"])

    return score


def kit_gqa(peers: Path) -> Score:
    matches = _kit_line(peers, "accuracy")
    return lambda doc, text: matches([doc["answer"]], text)[0]


def lmms_chartqa(peers: Path) -> Score:
    file = peers / LMMS / "tasks/chartqa/utils.py"
    lmms = definitions(file, ["relaxed_correctness"], {})
    return lambda doc, text: float(lmms.relaxed_correctness(text, doc["answer"]))


def kit_chartqa(peers: Path) -> Score:
    matches = _kit_line(peers, "relaxed_accuracy")
    return lambda doc, text: float(matches([doc["answer"]], text)[0])


def lmms_docvqa(peers: Path) -> Score:
    lmms = definitions(peers / LMMS / "api/metrics.py", ["anls"], {})
    return lambda doc, text: float(lmms.anls(doc["answers"], [text])["anls"])


def kit_docvqa(peers: Path) -> Score:
    matches = _kit_line(peers, "anls")

    def score(doc: Doc, text: str) -> float:
        similarity = 1 - min(matches(doc["answers"], text))
        return similarity if similarity >= 0.5 else 0.0

    return score


# Yes or no ---------------------------------------------------------------------------------------


def lmms_mme(peers: Path) -> Score:
    lmms = definitions(peers / LMMS / "tasks/mme/utils.py", ["parse_pred_ans"], {})
    return lambda doc, text: float(lmms.parse_pred_ans(text) == doc["answer"].lower())


def kit_yes_or_no(peers: Path) -> Score:
    """What VLMEvalKit reads before it asks a judge."""
    misc = definitions(peers / KIT / "smp/misc.py", ["process_punctuation"], {})
    kit = definitions(peers / KIT / "dataset/utils/yorn.py", ["YOrN_Extraction"], vars(misc))
    return lambda doc, text: float(kit.YOrN_Extraction(text).lower() == doc["answer"].lower())


def lmms_pope(peers: Path) -> Score:
    lmms = definitions(peers / LMMS / "tasks/pope/utils.py", ["pope_process_results"], {})
    return lambda doc, text: float(lmms.pope_process_results(doc, [text])["pope_accuracy"]["score"])


def llava_pope(peers: Path) -> Score:
    llava = definitions(peers / "LLaVA/llava/eval/eval_pope.py", ["eval_pope"], {})
    labels = Path(tempfile.mkdtemp()) / "labels.json"
    labels.write_text('{"label": "yes"}', encoding="utf-8")

    def score(doc: Doc, text: str) -> float:
        # The script writes what it reads into the answers. Its F1 divides by 0 without a hit.
        answers = [{"text": text}]
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(ZeroDivisionError):
            llava.eval_pope(answers, str(labels))
        return float(answers[0]["text"] == doc["answer"].lower())

    return score


PEERS: dict[str, dict[str, Callable[[Path], Score]]] = {
    "mme": {"lmms-eval": lmms_mme, "VLMEvalKit": kit_yes_or_no},
    "mmbench": {"lmms-eval": lmms_mmbench, "VLMEvalKit": kit_mmbench},
    "textvqa": {"lmms-eval": lmms_textvqa, "LLaVA": llava_textvqa, "VLMEvalKit": kit_textvqa},
    "vqav2": {"lmms-eval": lmms_vqav2, "VQA tool": tool_vqav2},
    "gqa": {"lmms-eval": lmms_gqa, "VLMEvalKit": kit_gqa},
    "pope": {"LLaVA": llava_pope, "lmms-eval": lmms_pope, "VLMEvalKit": kit_yes_or_no},
    "chartqa": {"lmms-eval": lmms_chartqa, "VLMEvalKit": kit_chartqa},
    "docvqa": {"lmms-eval": lmms_docvqa, "VLMEvalKit": kit_docvqa},
    "mathvista": {"MathVista": official_mathvista, "VLMEvalKit": kit_mathvista},
}


class Comparison(NamedTuple):
    """Pairs on which a scorer and a peer were run, and where they differ.

    `higher` and `lower`: pairs to which we give more and less than the peer.
    """

    pairs: int
    higher: int
    lower: int
    differences: Counter[str]  # by shape and who is stricter
    examples: dict[str, str]


def compared(scorer: str, peer: Score, pairs: Iterable[Pair]) -> Comparison:
    """A scorer and a peer on the same pairs; a peer that raises has no score."""
    count = 0
    higher = 0
    lower = 0
    differences: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for doc, text, shape in pairs:
        count += 1
        own_score = SCORERS[scorer].process(doc, [text])["score"]
        try:
            peer_score: float | str = peer(copy.deepcopy(doc), text)
        except Exception as error:  # noqa: BLE001 (a peer's own)
            peer_score = type(error).__name__
        if isinstance(peer_score, float) and abs(own_score - peer_score) < 1e-6:
            continue
        if isinstance(peer_score, float):
            higher += own_score > peer_score
            lower += own_score < peer_score
        peer_text = peer_score if isinstance(peer_score, str) else f"{peer_score:.2g}"
        kind = f"{shape!r}, ours {own_score:.2g}, theirs {peer_text}"
        differences[kind] += 1
        examples.setdefault(kind, f"{text!r} for {_reference(doc)}")
    return Comparison(count, higher, lower, differences, examples)


def _reference(doc: Doc) -> str:
    """What an example says of its question."""
    lettered = options(doc)
    if lettered:
        return f"{doc['answer']} of {lettered}"
    if doc.get("choices"):
        return f"{doc['answer']!r} of {doc['choices']}"
    if "answers" in doc:
        texts = [str(a["answer"] if isinstance(a, dict) else a) for a in doc["answers"]]
        return " | ".join(f"{count} x {text!r}" for text, count in Counter(texts).most_common(3))
    return repr(doc["answer"])


def kept(outputs: Path) -> dict[str, list[Pair]]:
    """Scorer -> the answers of all finished runs, those that could not be asked left out."""
    store = Store(outputs / "store")
    pairs: dict[str, list[Pair]] = {}
    for record in runs_folder.iterate(outputs, None):
        for benchmark, key in record.artefacts.answers.items():
            scorer = benchmark.removesuffix("_ocr")
            for row in read_answers(store.verify("evaluation", key) / ANSWERS):
                if "text" in row:
                    pairs.setdefault(scorer, []).append(
                        Pair(row["doc"], row["text"], "kept answer")
                    )
    return pairs


def print_peers(peers: Path, count: int, kept_pairs: dict[str, list[Pair]]) -> None:
    """The table scorer, peer, pairs, disagreements with their classes."""
    columns = ("scorer", "peer", "pairs", "differ", "ours higher", "ours lower")
    table = Table(*columns, "by shape of the answer (number), example")
    for scorer in GENERATORS:
        for name, load in PEERS[scorer].items():
            try:
                peer = load(peers)
            except (OSError, SyntaxError, KeyError, NameError) as error:
                out.print(f"{scorer}: {name} is not loaded ({type(error).__name__}: {error})")
                continue
            pairs = chain(generated(scorer, count, SEED), kept_pairs.get(scorer, []))
            result = compared(scorer, peer, pairs)
            lines: list[str] = []
            for kind, number in result.differences.most_common(SHOWN):
                lines.append(f"{kind} ({number}): {result.examples[kind]}")
            if len(result.differences) > SHOWN:
                lines.append(f"and {len(result.differences) - SHOWN} more classes")
            numbers = (result.pairs, result.differences.total(), result.higher, result.lower)
            cells = [str(number) for number in numbers]
            table.add_row(scorer, name, *cells, escape("\n".join(lines)))
    out.print(table)


# Published responses -----------------------------------------------------------------------------


def print_mathvista(results: Path) -> None:
    """Our scores of the published responses beside the published ones.

    The published score has a language model extract the answers, and gives empty extractions an
    option too.
    """
    columns = ("responses", "n", "published", "ours", "same", "multiple choice", "numbers", "empty")
    table = Table(*columns)
    for file in sorted(results.glob("*/output_*.json")):
        rows: list[dict[str, Any]] = []
        for row in json.loads(file.read_text(encoding="utf-8")).values():
            # A few were never scored.
            if isinstance(row.get("response"), str) and "true_false" in row:
                rows.append(row)
        if not rows:
            out.print(f"{file.stem}: has no scored responses, left out")
            continue
        scores = [SCORERS["mathvista"].process(row, [row["response"]])["score"] for row in rows]
        is_same = [score == row["true_false"] for score, row in zip(scores, rows, strict=True)]
        by_kind: dict[bool, list[bool]] = {True: [], False: []}
        for row, same in zip(rows, is_same, strict=True):
            by_kind[row["question_type"] == "multi_choice"].append(same)
        table.add_row(
            file.stem.removeprefix("output_"),
            str(len(rows)),
            _percent([row["true_false"] for row in rows]),
            _percent(scores),
            _percent(is_same),
            _percent(by_kind[True]),
            _percent(by_kind[False]),
            _percent([not row["response"].strip() for row in rows]),
        )
    out.print(table)


def _percent(values: list[bool] | list[float]) -> str:
    return f"{100 * sum(values) / len(values):.1f}" if values else "-"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("peers", type=Path, help="folder with the peers' clones")
    parser.add_argument("--answers", type=Path, help="outputs folder whose kept answers are added")
    parser.add_argument("--pairs", type=int, default=20_000, help="generated pairs per scorer")
    arguments = parser.parse_args()
    if not arguments.peers.is_dir():
        parser.error(f"{arguments.peers} is no folder: clone the peers into one")
    kept_pairs = kept(arguments.answers) if arguments.answers else {}
    print_peers(arguments.peers, arguments.pairs, kept_pairs)
    results = arguments.peers / "MathVista" / "results"
    if results.is_dir():
        print_mathvista(results)
    else:
        out.print(f"no {results}: MathVista's published responses are left out")


if __name__ == "__main__":
    main()
