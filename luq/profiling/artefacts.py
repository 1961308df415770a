"""What is measured of the layers of a 16-bit model: entropies, and the scores beside them."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

from luq.calibration.artefacts import Calibration, samples_of
from luq.models.checkpoint import Checkpoint
from luq.profiling.entropies import LayerEntropy, subsample_of
from luq.store.artefact import Artefact, Tools
from luq.store.store import write_json

SCORES = "scores.json"
ModalityScores = dict[str, dict[str, list[float]]]  # modality -> score -> value per layer


@dataclass(frozen=True, eq=False, repr=False)
class EntropyProfile(Artefact[list[LayerEntropy]]):
    """K-means entropy of every decoder layer and modality, in bits (LUQ, section 3)."""

    stage: ClassVar[str] = "profile"
    version: ClassVar[int] = 2
    calibration: Calibration
    clusters: int = 100  # K of K-means
    tokens: int = 4096  # output vectors per layer and modality
    seeds: int = 3  # repetitions
    seed: int = 0

    @property
    def description(self) -> str:
        return "the entropy profile"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.models.vlm import loaded
        from luq.profiling.capture import choose_tokens, layer_outputs
        from luq.profiling.entropy import profile_entropy

        vlm = loaded(tools, self.calibration.checkpoint)
        samples = samples_of(self.calibration, tools)
        positions = choose_tokens(samples.image_mask(), self.tokens, self.seed)
        # too few for so many clusters: better said before the forward pass
        subsample_of((len(tokens) for tokens in positions.values()), self.clusters)
        outputs = layer_outputs(vlm, samples, self.tokens, self.seed, tools.store.root)
        total = len(outputs) * len(outputs[0]) * self.seeds
        with tools.progress.bar("profile", total) as advance:
            table = profile_entropy(
                outputs, self.clusters, self.seeds, self.seed, lambda: advance("", 1)
            )
        write_json(folder / "profile.json", [asdict(entry) for entry in table])

    def read(self, folder: Path) -> list[LayerEntropy]:
        entries = json.loads((folder / "profile.json").read_text(encoding="utf-8"))
        return [LayerEntropy(**entry) for entry in entries]


@dataclass(frozen=True, eq=False, repr=False)
class ForwardScores(Artefact[ModalityScores]):
    """Variance and layer input modification of every layer, from one pass over the samples."""

    stage: ClassVar[str] = "scores"
    version: ClassVar[int] = 1
    calibration: Calibration

    @property
    def description(self) -> str:
        return "the forward scores"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.models.vlm import loaded
        from luq.profiling.scores import forward_scores

        vlm = loaded(tools, self.calibration.checkpoint)
        write_json(folder / SCORES, forward_scores(vlm, samples_of(self.calibration, tools)))

    def read(self, folder: Path) -> ModalityScores:
        scores: ModalityScores = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        return scores


@dataclass(frozen=True, eq=False, repr=False)
class WeightScores(Artefact[dict[str, list[float]]]):
    """Scores from the weights alone: score -> value per layer."""

    stage: ClassVar[str] = "scores"
    version: ClassVar[int] = 1
    checkpoint: Checkpoint

    @property
    def description(self) -> str:
        return "the weights scores"

    def make(self, folder: Path, tools: Tools) -> None:
        from luq.models.vlm import loaded
        from luq.profiling.scores import weight_scores

        write_json(folder / SCORES, weight_scores(loaded(tools, self.checkpoint)))

    def read(self, folder: Path) -> dict[str, list[float]]:
        scores: dict[str, list[float]] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
        return scores
