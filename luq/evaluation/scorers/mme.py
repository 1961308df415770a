"""MME: yes/no pairs; a category scores accuracy + pair accuracy, at most 200 (perception 2000, cognition 800)."""

from luq.evaluation.scorers.summary import Doc, Item, Summary, grouped, mean, of_strata

COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def parse(text: str) -> str:
    """`yes`, `no` or `other`, from the first four characters as the official script reads them."""
    answer = text.lower().strip().replace(".", "")
    if answer in ("yes", "no"):
        return answer
    if len(answer) == 1:
        return {"y": "yes", "n": "no"}.get(answer, "other")
    head = answer[:4]
    return "yes" if "yes" in head else "no" if "no" in head else "other"


def process(doc: Doc, results: list[str]) -> dict[str, float]:
    said = parse(results[0])
    return {"score": float(said == doc["answer"].lower().strip()), "yes": float(said == "yes")}


def category_score(items: list[Item]) -> float:
    """100 * share of right answers + 100 * share of images whose questions are all right."""
    pairs = [
        [v["score"] for _, v in group]
        for group in grouped(items, lambda d: d["question_id"]).values()
    ]
    return 100 * mean([s for p in pairs for s in p]) + 100 * mean([float(all(p)) for p in pairs])


def summarise(items: list[Item]) -> Summary:
    """Score: the mean category score in percent of 200; units are pairs. Perception and cognition are sums."""
    categories = {
        str(name): category_score(group)
        for name, group in grouped(items, lambda d: d["category"]).items()
    }
    metrics = {
        "perception": sum(v for c, v in categories.items() if c not in COGNITION),
        "cognition": sum(v for c, v in categories.items() if c in COGNITION),
    }
    pairs = grouped(items, lambda d: (d["category"], d["question_id"]))
    units = [
        (mean([v["score"] for _, v in p]) + float(all(v["score"] for _, v in p))) / 2
        for p in pairs.values()
    ]
    return of_strata(units, [p[0][0]["category"] for p in pairs.values()], metrics | categories)
