"""Entropies of cluster frequencies, at equal numbers of vectors."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch

from luq.config import ProfileConfig
from luq.errors import ConfigError
from luq.profiling.entropy import cluster, entropy_bits, profile_entropy


@pytest.mark.parametrize(
    ("labels", "bits"),
    [
        (np.zeros(50, int), 0),
        (np.arange(64), 6),
        (np.array([0, 0, 1, 2]), 1.5),
        (np.array([5, 5, 7, 7]), 1),  # labels in between that nothing has
    ],
)
def test_entropy_is_in_bits(labels: np.ndarray, bits: float) -> None:
    assert entropy_bits(labels) == bits


def test_an_entropy_of_nothing_is_no_negative_zero() -> None:
    assert math.copysign(1, entropy_bits(np.zeros(5, int))) == 1


def blobs(centres: int, n: int, seed: int = 0) -> torch.Tensor:
    """n vectors in turn around some centres that lie far apart."""
    generator = torch.Generator().manual_seed(seed)
    positions = torch.randn(centres, 8, generator=generator) * 30
    noise = torch.randn(n, 8, generator=generator) * 0.01
    return positions[torch.arange(n) % centres] + noise


def test_well_separated_blobs_give_their_number() -> None:
    assert entropy_bits(cluster(blobs(8, 800).numpy(), 8, 0)) == pytest.approx(3, abs=0.35)


def test_there_are_never_more_clusters_than_different_vectors() -> None:
    assert len(set(cluster(np.ones((20, 3)), 5, 0))) == 1


def test_clusters_depend_on_the_seed_and_on_nothing_else() -> None:
    vectors = np.random.default_rng(0).normal(size=(300, 4))
    assert np.array_equal(cluster(vectors, 10, 1), cluster(vectors, 10, 1))
    assert not np.array_equal(cluster(vectors, 10, 1), cluster(vectors, 10, 2))


OUTPUTS = [
    {"image": blobs(2, 900), "text": blobs(30, 600)},
    {"image": blobs(30, 900), "text": blobs(2, 600)},
]


def test_spread_out_outputs_have_more_entropy_and_all_modalities_the_same_count() -> None:
    table = profile_entropy(OUTPUTS, clusters=40, seeds=3)
    by_layer = {(entry.layer, entry.modality): entry for entry in table}
    assert list(by_layer) == [(0, "image"), (0, "text"), (1, "image"), (1, "text")]
    assert by_layer[0, "image"].mean < by_layer[0, "text"].mean
    assert by_layer[1, "image"].mean > by_layer[1, "text"].mean
    assert {entry.tokens for entry in table} == {480}, "0.8 of the fewer vectors"
    assert all(0 <= entry.mean <= math.log2(40) for entry in table)
    assert table == profile_entropy(OUTPUTS, clusters=40, seeds=3)


def test_each_repetition_has_a_subsample_and_a_start_of_its_own() -> None:
    vectors = torch.randn(500, 6, generator=torch.Generator().manual_seed(0))
    (once,) = profile_entropy([{"all": vectors}], clusters=20, seeds=1)
    (repeated,) = profile_entropy([{"all": vectors}], clusters=20, seeds=4)
    (other,) = profile_entropy([{"all": vectors}], clusters=20, seeds=1, seed=1)
    assert once.spread == 0
    assert repeated.spread > 0
    assert other.mean != once.mean


def test_an_estimate_is_that_of_its_subsample() -> None:
    vectors = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
    (entry,) = profile_entropy([{"all": vectors}], clusters=5, seeds=2, seed=7)
    estimates = []
    for repetition in range(2):
        rows = np.random.default_rng([7, repetition, 13]).permutation(100)[:80]
        estimates.append(entropy_bits(cluster(vectors.numpy()[rows], 5, 7 + repetition)))
    assert entry.mean == np.mean(estimates)
    assert entry.spread == np.std(estimates)


def test_every_k_means_advances_the_progress() -> None:
    steps: list[int] = []
    profile_entropy(OUTPUTS, 10, 2, advance=lambda: steps.append(1))
    assert len(steps) == 2 * 2 * 2


def test_more_clusters_than_the_vectors_fill_are_refused() -> None:
    """Five vectors a cluster of 0.8 of the fewest: no other K is used than the one asked for."""
    outputs = [{"all": blobs(30, 400), "image": blobs(30, 200)}]
    (entry, _) = profile_entropy(outputs, clusters=32, seeds=1)
    assert (entry.clusters, entry.tokens) == (32, 160)
    with pytest.raises(ConfigError, match=r"clusters=33 .* 200 output .* 160 .*clusters=32 or"):
        profile_entropy(outputs, clusters=33, seeds=1)
    (entry, _) = profile_entropy(outputs, clusters=ProfileConfig.clusters, seeds=1)
    assert entry.clusters == 32, "the default is for the paper's tokens, and says what it was"
    with pytest.raises(ConfigError, match=r"clusters=2 .* has 1 output vectors"):
        profile_entropy([{"all": torch.ones(1, 4)}], clusters=2, seeds=1)


def test_equal_vectors_have_no_entropy() -> None:
    (entry,) = profile_entropy([{"all": torch.ones(20, 4)}], clusters=2, seeds=1)
    assert entry.mean == 0


def test_without_images_the_entropies_of_text_are_those_of_all() -> None:
    """To the last bit, for they are of the same tokens."""
    steps: list[int] = []
    layers = [blobs(9, 300), blobs(20, 300)]
    outputs = [{"all": vectors, "text": vectors} for vectors in layers]
    table = profile_entropy(outputs, 20, 2, advance=lambda: steps.append(1))
    names = [(entry.layer, entry.modality) for entry in table]
    assert names == [(0, "all"), (0, "text"), (1, "all"), (1, "text")]
    assert [entry.mean for entry in table[::2]] == [entry.mean for entry in table[1::2]]
    assert table[0].mean != table[2].mean
    assert len(steps) == 2 * 2 * 2


def test_sklearn_is_imported_only_to_cluster() -> None:
    code = "import sys, luq.profiling.entropy; sys.exit('sklearn' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
