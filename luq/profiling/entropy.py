"""Activation entropy of a layer (LUQ, section 3): how widely its output vectors spread.

H = -sum_k p_k log2 p_k, in bits, with p_k the share of vectors in K-means cluster k of K. It lies
in [0, log2 K]. Estimates depend on the number of vectors. So every layer and modality that is
compared uses the same number, and the estimate is repeated over seeds, each with its own subsample
and its own start.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float, Float32, Int
from torch import Tensor

from luq.profiling.entropies import LayerEntropy, subsample_of

log = logging.getLogger(__name__)
ITERATIONS = 100  # of K-means, at most
VECTOR_CHOICE = 13  # tells this use of a seed from the project's others


def entropy_bits(labels: Int[np.ndarray, " vectors"]) -> float:
    """Entropy in bits of the frequencies of cluster labels."""
    counts = np.bincount(labels)
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0  # + 0.0: no -0.0 where all are in one cluster


def cluster(
    vectors: Float[np.ndarray, "vectors hidden"], clusters: int, seed: int
) -> Int[np.ndarray, " vectors"]:
    """K-means labels of vectors; never more clusters than there are different vectors."""
    from sklearn.cluster import KMeans  # late: it takes seconds, and not all callers need it

    different = len(np.unique(vectors, axis=0))
    kmeans = KMeans(min(clusters, different), n_init=1, max_iter=ITERATIONS, random_state=seed)
    labels: Int[np.ndarray, " vectors"] = kmeans.fit(vectors).labels_
    return labels


def profile_entropy(
    outputs: Sequence[dict[str, Float32[Tensor, "_ hidden"]]],
    clusters: int,
    seeds: int,
    seed: int = 0,
    advance: Callable[[], None] = lambda: None,
) -> list[LayerEntropy]:
    """Entropies of all layers and modalities at equal numbers of vectors.

    Args:
        outputs: By layer and modality, vectors [vectors, hidden]. All layers hold equally many of
            a modality. Each layer is read once, in turn.
        clusters: K of K-means; of the default, as many as the vectors fill.
        seeds: How often the estimate is repeated.
        seed: Of the subsamples, and of the first repetition's start.
        advance: Called after each K-means.

    Returns:
        One entry per layer and modality, layer by layer. Without images, `text` is `all`.

    Raises:
        ConfigError: There are too few vectors for so many clusters.
    """
    vectors_by_modality = outputs[0].values()
    tokens, used_clusters = subsample_of((len(v) for v in vectors_by_modality), clusters)
    if used_clusters < clusters:
        log.warning(
            "%d vectors are too few for K=%d clusters: using K=%d", tokens, clusters, used_clusters
        )
    table: list[LayerEntropy] = []
    for layer, by_modality in enumerate(outputs):
        measured: dict[str, LayerEntropy] = {}
        for modality, vectors in by_modality.items():
            if modality == "text" and "all" in measured and "image" not in by_modality:
                # The same vectors. With several threads K-means could give them other last bits.
                measured[modality] = replace(measured["all"], modality=modality)
                for _ in range(seeds):
                    advance()
                continue
            estimates: list[float] = []
            for repetition in range(seeds):
                rng = np.random.default_rng([seed, repetition, VECTOR_CHOICE])
                subsample = vectors.numpy()[rng.permutation(len(vectors))[:tokens]]
                labels = cluster(subsample, used_clusters, seed + repetition)
                estimates.append(entropy_bits(labels))
                advance()
            mean = float(np.mean(estimates))
            spread = float(np.std(estimates))
            measured[modality] = LayerEntropy(layer, modality, mean, spread, tokens, used_clusters)
        table += measured.values()
    return table
