"""ChartQA: relaxed accuracy. Numbers may be 5 % off; everything else must match, ignoring case."""

from luq.evaluation.scorers.summary import Doc, Item, Summary, mean, of_units


def number(text: str) -> float | None:
    """A float, percentages as shares; None if it is no number."""
    try:
        return float(text.rstrip("%")) / 100 if text.endswith("%") else float(text)
    except ValueError:
        return None


def relaxed(prediction: str, target: str, tolerance: float = 0.05) -> bool:
    said, true = number(prediction), number(target)
    if said is not None and true:
        return abs(said - true) / abs(true) <= tolerance
    return prediction.lower() == target.lower()


def process(doc: Doc, results: list[str]) -> dict[str, float]:
    return {"score": float(relaxed(results[0].strip(), str(doc["answer"])))}


def summarise(items: list[Item]) -> Summary:
    units = [float(values["score"]) for _, values in items]
    metrics = {"relaxed_accuracy": 100 * mean(units)}
    for kind in ("human", "augmented"):
        part = [
            float(values["score"]) for doc, values in items if str(doc["type"]).startswith(kind)
        ]
        if part:
            metrics[kind] = 100 * mean(part)
    return of_units(units, metrics)
