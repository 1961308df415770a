"""The usual calibration samples of a pocket model, for scripts that need no store."""

from luq.calibration.mixing import build, generated_questions
from luq.calibration.samples import CalibrationSet
from luq.config import CalibrationConfig
from luq.models.vlm import VLM
from luq.pocket.plugin import PocketPlugin
from luq.questions.text import text_source


def pocket_samples(vlm: VLM, config: CalibrationConfig) -> CalibrationSet:
    """What a run with this config calibrates a pocket model on."""
    generated = PocketPlugin().calibration_questions(config.benchmarks, config.seed)
    text = text_source(config.text, "calibration")
    return build(vlm, config, generated_questions(generated), text)
