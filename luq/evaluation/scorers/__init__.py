"""Pure scorers: `process(doc, [text]) -> {metric: value}` and `summarise(items) -> Summary`."""

VERSION = 1  # enters every evaluation key; raise it when a scorer changes
