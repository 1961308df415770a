"""The `luq` command."""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from luq.errors import ConfigError, LuqError

HYDRA = {
    "run": "the whole chain: calibrate, profile, allocate, quantize, evaluate, record",
    "profile": "up to the layers' activation entropies",
    "quantize": "up to the packed layers",
    "evaluate": "the same chain as run: what the store has is not made again",
}
SWEEPS = {
    "sweep": "a named sweep: runs what is missing or failed (`luq sweep` lists them, --plan says what one will cost)",
    "status": "which runs of a named sweep are done, running, failed or missing",
}
OTHERS = ("report", "compare", "rescore", "export", "info", "chat", "pocket")
REPORT = "one HTML file over sweeps (or all runs), the same in Markdown, figures, CSV and parquet"
EPILOG = """\
run, profile, quantize and evaluate take Hydra overrides, and -m for every combination:
  luq run allocation=count allocation.k=4
  luq run -m allocation.k=0,2,4,6 calibration=text,multimodal
  luq run allocation=threshold allocation.quantile=0.5 quantizer.propagation=high
sweep and status take a name and Hydra overrides:
  luq sweep pareto --plan
  luq sweep pareto model=pocket_llava seed=0,1 hydra/launcher=joblib hydra.launcher.n_jobs=2
tab completion: eval "$(luq -sc install=bash)"
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        "luq", description="Layerwise ultra-low-bit quantization of multimodal LLMs.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in (HYDRA | SWEEPS).items():
        commands.add_parser(name, help=text, add_help=False)
    commands.add_parser("report", help=REPORT, add_help=False)
    compare = commands.add_parser(
        "compare", help="two runs question by question: `luq compare SWEEP/NAME SWEEP/NAME`"
    )
    compare.add_argument(
        "a", help="SWEEP/NAME, or the beginning of a run's key; with --axis a sweep"
    )
    compare.add_argument("b", nargs="?")
    compare.add_argument(
        "--axis",
        help="a row per value of it: order, calibration, weighting, propagation, quantizer, profile.clusters, ...",
    )
    compare.add_argument("--base", help="the value that the others are compared with")
    rescore = commands.add_parser(
        "rescore", help="score kept answers again, after a scorer changed; nothing is generated"
    )
    rescore.add_argument("sweep", nargs="?", help="only this sweep's runs")
    exported = commands.add_parser(
        "export", help="a run's packed model as a Hugging Face folder: `luq export demo/luq_k4 DIR`"
    )
    exported.add_argument("run", help="SWEEP/NAME, or the beginning of a run's key")
    exported.add_argument("folder", type=Path)
    exported.add_argument(
        "--format",
        choices=("luq", "compressed-tensors"),
        default="luq",
        help="layout (default: luq)",
    )
    for command in (compare, rescore, exported):
        command.add_argument(
            "--outputs", type=Path, default=Path(os.environ.get("LUQ_OUTPUTS", "outputs"))
        )
    commands.add_parser("info", help="ledger, allocation and scores of such a folder").add_argument(
        "folder", type=Path
    )
    chat = commands.add_parser(
        "chat", help="ask such a folder about an image; without --question, question after question"
    )
    chat.add_argument("folder", type=Path)
    chat.add_argument("--image", type=Path, required=True)
    chat.add_argument("--question")
    pocket = commands.add_parser(
        "pocket", help="the pocket testbed: `luq pocket data DIR`, `luq pocket train DIR`"
    )
    kinds = pocket.add_subparsers(dest="kind", metavar="KIND", required=True)
    data = kinds.add_parser("data", help="write the nine miniature benchmarks as parquet files")
    data.add_argument("folder", type=Path)
    data.add_argument("--split", choices=("report", "selection"), default="report")
    train = kinds.add_parser("train", help="train a pocket model, or continue the training in DIR")
    train.add_argument("folder", type=Path)
    train.add_argument(
        "--model",
        default=None,
        help="pocket_llava (default) or pocket_qwen, which starts from pocket_llava's decoder",
    )
    train.add_argument("--steps", type=int, default=None, help="language steps")
    train.add_argument("--vision-steps", type=int, default=None, dest="vision_steps")
    train.add_argument("--seed", type=int, default=None)
    train.add_argument(
        "--start",
        default=None,
        metavar="CHECKPOINT",
        help="go on from the weights of a finished checkpoint",
    )
    train.add_argument(
        "--focus",
        default=None,
        help="abilities to train one after the other first: letters,places,...",
    )
    train.add_argument(
        "--decay",
        type=float,
        default=None,
        help="last share of the steps, in which the rate falls to zero",
    )
    return parser


def _pocket(arguments: argparse.Namespace) -> None:
    from pipelines.console import out

    if arguments.kind == "data":
        from luq.pocket.benchmarks import write

        for name, rows in write(arguments.folder, arguments.split).items():
            out.print(f"{arguments.folder / name}.parquet  {rows} rows")
        return
    from rich.progress import Progress

    from luq.pocket.train import TrainConfig, train

    logging.getLogger("luq").setLevel(logging.INFO)
    settings = ("model", "steps", "vision_steps", "seed", "start", "focus", "decay")
    given = {k: v for k, v in vars(arguments).items() if k in settings and v is not None}
    with Progress(console=out, disable=not sys.stdout.isatty()) as progress:
        out.print(f"checkpoint: {train(arguments.folder, TrainConfig(**given), progress)}")


def _complete(arguments: list[str]) -> None:
    """Tab completion: `eval "$(luq -sc install=bash)"`. Hydra completes overrides; commands and names of sweeps are ours."""
    from pipelines import grid, run

    line = os.environ.get("COMP_LINE", "")
    words = line.split()
    if "query" in arguments[-1] and words:
        last = "" if line.endswith(" ") else words.pop()
        if len(words) < 2 or (len(words) == 2 and words[1] in SWEEPS):
            known = (
                (
                    *HYDRA,
                    *SWEEPS,
                    "report",
                    "compare",
                    "rescore",
                    "export",
                    "info",
                    "chat",
                    "pocket",
                )
                if len(words) < 2
                else grid.names()
            )
            sys.stdout.write("\n".join(name for name in known if name.startswith(last)) + "\n")
            return
        short = " ".join([words[0], *words[3 if words[1] in SWEEPS else 2 :], last])
        os.environ |= {"COMP_LINE": short, "COMP_POINT": str(len(short))}
    sys.argv = ["luq", *arguments]
    run.main()


def _plain(arguments: argparse.Namespace) -> None:
    """The commands that take no Hydra overrides."""
    if arguments.command == "pocket":
        _pocket(arguments)
        return
    if arguments.command == "compare":
        from analysis import terminal

        if arguments.axis:
            terminal.compare_axis(arguments.outputs, arguments.a, arguments.axis, arguments.base)
        elif arguments.b is None:
            raise ConfigError("luq compare needs two runs, or one sweep and --axis")
        else:
            terminal.compare_runs(arguments.outputs, arguments.a, arguments.b)
        return
    if arguments.command in ("export", "info", "chat"):
        from pipelines import checkpoints

        if arguments.command == "export":
            checkpoints.export_run(
                arguments.outputs, arguments.run, arguments.folder, arguments.format
            )
        elif arguments.command == "info":
            checkpoints.info(arguments.folder)
        else:
            checkpoints.chat(arguments.folder, arguments.image, arguments.question)
        return
    from pipelines import records

    records.rescore(arguments.outputs, arguments.sweep)


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point; LuqErrors are shown as one line and exit code 1."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    from pipelines import console

    try:
        if arguments and arguments[0] == "-sc":
            _complete(arguments)
            return
        if arguments and arguments[0] in HYDRA:
            from pipelines import run, schema

            schema.check_choices(arguments[1:])
            sys.argv = [f"luq {arguments[0]}", *arguments[1:]]
            run.main(arguments[0])
            return
        if arguments and arguments[0] in SWEEPS:
            from pipelines import sweep

            sweep.main(arguments[0], arguments[1:])
            return
        if arguments and arguments[0] == "report":
            from analysis.__main__ import main as report

            code = report(arguments[1:])
            if code:
                sys.exit(code)
            return
        logging.basicConfig(level=logging.WARNING, format="%(message)s")
        _plain(_parser().parse_args(arguments))
    except LuqError as error:
        console.fail(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        console.fail(
            "interrupted: what was finished is kept, the same command continues from there"
        )
        sys.exit(130)


if __name__ == "__main__":
    main()
