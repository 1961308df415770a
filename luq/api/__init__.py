"""LUQ from Python, a function a step: load, profile, plan, quantize, evaluate.

```python
model = luq.load("llava-hf/llava-1.5-7b-hf")
profile = luq.profile(model, samples)
plan = luq.plan(profile, k=16, low="trellis2", high="trellis3")
packed = luq.quantize(model, plan, samples)
packed.save_pretrained("packed")
```

Each step makes or finds the artefacts of a run (`luq.graph`, `luq.planning`) in a store. `samples`
are a user's own (`luq.calibration.own`) or a `CalibrationConfig`, as a run has it.
"""

from luq.api.asked import Score, evaluate
from luq.api.loaded import LoadedModel, load
from luq.api.packed import PackedModel, quantize
from luq.api.planned import Plan, plan
from luq.api.profiled import Profile, profile

__all__ = [
    "LoadedModel",
    "PackedModel",
    "Plan",
    "Profile",
    "Score",
    "evaluate",
    "load",
    "plan",
    "profile",
    "quantize",
]
