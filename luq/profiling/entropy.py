"""Activation entropy of a layer (LUQ, section 3): how widely its output vectors spread over K clusters.

H = -sum_k p_k log2 p_k, in bits, p_k the share of vectors in K-means cluster k. It lies in [0, log2 K].
Estimates depend on the number of vectors, so every layer and modality that is compared uses the same
number, and the estimate is repeated over seeds, each with its own subsample and its own start.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np
from sklearn.cluster import KMeans
from torch import Tensor

from luq.config import ProfileConfig
from luq.profiling.entropies import LayerEntropy

log = logging.getLogger(__name__)
SUBSAMPLE = 0.8  # of the smallest modality's vectors: what each seed draws
PER_CLUSTER = 5  # vectors a cluster needs on average


def entropy_bits(labels: np.ndarray) -> float:
    """Entropy in bits of the cluster frequencies of labels [vectors]."""
    counts = np.bincount(labels)
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum()) + 0.0


def cluster(vectors: np.ndarray, clusters: int, seed: int) -> np.ndarray:
    """K-means labels [vectors] of vectors [vectors, hidden]; never more clusters than different vectors."""
    different = min(clusters, len(np.unique(vectors, axis=0)))
    return KMeans(different, n_init=1, max_iter=100, random_state=seed).fit(vectors).labels_


def profile_entropy(
    outputs: Sequence[dict[str, Tensor]],
    config: ProfileConfig,
    advance: Callable[[], None] = lambda: None,
) -> list[LayerEntropy]:
    """Entropies of all layers and modalities at equal token counts; `advance` is called after each K-means.

    All layers hold equally many vectors of a modality; each is looked at once, in turn.
    """
    tokens = max(2, int(SUBSAMPLE * min(len(rows) for rows in outputs[0].values())))
    clusters = min(config.clusters, max(2, tokens // PER_CLUSTER))
    if clusters < config.clusters:
        log.warning(
            "%d vectors are too few for K=%d clusters: using K=%d",
            tokens,
            config.clusters,
            clusters,
        )
    table = []
    for i, layer in enumerate(outputs):
        for modality, rows in layer.items():
            values = []
            for seed in range(config.seeds):
                rng = np.random.default_rng([config.seed, seed, 13])
                vectors = rows.numpy()[rng.permutation(len(rows))[:tokens]]
                values.append(entropy_bits(cluster(vectors, clusters, config.seed + seed)))
                advance()
            table.append(
                LayerEntropy(
                    i, modality, float(np.mean(values)), float(np.std(values)), tokens, clusters
                )
            )
    return table
