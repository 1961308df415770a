"""POPE: does the model see objects that are not there? Accuracy, F1 per category, and how often it says yes."""

from luq.evaluation.scorers.summary import Doc, Item, Summary, grouped, mean, of_units


def parse(text: str) -> str:
    """First sentence; `no` if No, not or no is one of its words, else `yes` (LLaVA's evaluation)."""
    words = text.strip().split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def process(doc: Doc, results: list[str]) -> dict[str, float]:
    said = parse(results[0])
    return {"score": float(said == doc["answer"].lower().strip()), "yes": float(said == "yes")}


def f1(items: list[Item]) -> float:
    """F1 of the answer yes, in [0, 1]."""
    truth = [(doc["answer"].lower().strip() == "yes", bool(values["yes"])) for doc, values in items]
    hit = sum(t and s for t, s in truth)
    wrong = sum(t != s for t, s in truth)
    return 2 * hit / (2 * hit + wrong) if hit else 0.0


def summarise(items: list[Item]) -> Summary:
    """Score: accuracy. The yes-ratio is of the predictions: near 0 or 1 it betrays a collapsed model."""
    categories = grouped(items, lambda d: d["category"])
    metrics = {f"f1_{name}": 100 * f1(group) for name, group in categories.items()}
    metrics["f1"] = mean(list(metrics.values()))
    units = [float(values["score"]) for _, values in items]
    metrics["accuracy"] = 100 * mean(units)
    metrics["yes_ratio"] = mean([float(bool(values["yes"])) for _, values in items])
    return of_units(units, metrics)
