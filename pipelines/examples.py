"""Examples that the help of each command ends with: a command line, and what it does."""

Example = tuple[str, str]

EXAMPLES: dict[str, tuple[Example, ...]] = {
    "luq": (
        (
            "luq run allocation.k=4",
            "quantize 4 layers to 1 bit and the others to 4, and score the model",
        ),
        ("luq run -m allocation.k=0,2,4,6 calibration=text,multimodal", "every combination"),
        ("luq sweep pareto --plan", "what a named sweep would cost"),
        ("luq report pareto", "one page over it"),
        ("luq export pareto/luq_k4 DIR", "a folder that transformers loads"),
        (
            'eval "$(luq completion bash)"',
            "let tab complete commands, runs, settings and their values",
        ),
    ),
    "run": (
        ("luq run allocation.k=4", "4 layers in the low tier, the others in the high one"),
        ("luq run allocation=budget allocation.bits=3.5", "as many low layers as fit 3.5 bits"),
        ("luq run experiment=trellis2 model=pocket_qwen", "a recipe, on another model"),
        ("luq run -m allocation.k=2,4 order=entropy,kl group=mine", "four runs of a group"),
        (
            "luq run -m hydra/sweeper=optuna 'allocation.k=range(1,9)' group=hunt",
            "search instead of trying all (luq[optuna])",
        ),
        ("luq run allocation.k=4 --cfg job", "show what it would be run with"),
        ("luq run model.path=DIR --plan", "the hours, memory and disk that it will take"),
    ),
    "evaluate": (
        ("luq evaluate allocation.k=4 evaluation.samples=40", "40 units of each benchmark"),
        ("luq evaluate evaluation=smoke", "8 units of each: does everything run?"),
        ("luq evaluate --gguf DIR", "the same questions, in llama.cpp"),
    ),
    "profile": (
        ("luq profile", "entropy of every layer, and its place in the order"),
        ("luq profile profile=all_orders", "every order, and how alike they rank"),
    ),
    "quantize": (
        ("luq quantize allocation.k=4", "where the packed layers are, and what they weigh"),
    ),
    "sweep": (
        ("luq sweep", "list the named sweeps"),
        ("luq sweep pareto --plan", "its runs, what is stored, and what the rest will cost"),
        ("luq sweep pareto model=pocket_qwen allocation.k=2,4", "other values of its axes"),
        ("luq sweep pareto hydra/launcher=joblib hydra.launcher.n_jobs=2", "two processes"),
        ("luq sweep pareto --workers 2", "two workers that share each artefact's work"),
    ),
    "status": (("luq status pareto", "with the same words as luq sweep"),),
    "report": (
        ("luq report", "over all runs"),
        ("luq report order modality", "over two sweeps, or groups of runs"),
        ("luq report --wandb team/luq order", "over runs that tracking=wandb mirrored"),
    ),
    "compare": (
        ("luq compare demo/luq_k4 demo/luq_k4_text", "two runs of a sweep"),
        ("luq compare 3960193c 4aa693a6", "two runs by the beginnings of their keys"),
        ("luq compare order --axis order", "every order of a sweep against the usual one"),
        ("luq compare alpha --axis calibration.alpha --base 0.5", "against another value"),
        ("luq compare demo/gptq4 DIR", "a run, and its folder in llama.cpp"),
    ),
    "rescore": (("luq rescore demo", "the runs of a sweep; all runs without a name"),),
    "export": (
        ("luq export demo/luq_k4 DIR", "packed, as LUQ stores it: import luq loads it"),
        ("luq export demo/gptq4 DIR --format compressed-tensors", "for vLLM and others"),
        ("luq export demo/luq_k4 DIR --format dequantized", "plain 16-bit weights"),
        ("luq export demo/gptq4 DIR --format gguf", "for llama.cpp"),
    ),
    "info": (("luq info DIR --verify", "and every byte against its checksums"),),
    "chat": (('luq chat DIR --image cat.png --question "What is this?"', "one question"),),
    "du": (("luq store du", "what takes the space"),),
    "clean": (
        ("luq store clean", "what no record needs: says what, and asks"),
        ("luq store clean --sweep order", "what only this sweep needs; its records stay"),
    ),
    "verify": (("luq store verify", "after a disk had errors"),),
    "data": (("luq pocket data DIR", "in the columns of the real datasets"),),
    "train": (("luq pocket train DIR --model pocket_qwen", "stop and go on as you like"),),
    "graft": (("luq pocket graft outputs/models/smol_llava", "where model=smol_llava looks"),),
    "completion": (('eval "$(luq completion bash)"', "in this shell, or in ~/.bashrc"),),
}
