"""What a few plans weigh and score: python examples/compare.py [STORE]

With a folder STORE all that is made is kept: a second start finds it.
"""

import sys

import luq

BENCHMARKS = ["gqa", "pope"]
SAMPLES = 24  # questions of each; more of them for a verdict

calibration = luq.CalibrationConfig("mixed", alpha=0.5, tokens=1024, source="pocket", text="pocket")
model = luq.load("pocket:pocket_llava", store=sys.argv[1] if len(sys.argv) > 1 else None)
profile = luq.profile(model, calibration, tokens=128, seeds=1)

low = luq.RtnTier(bits=2)
plans = {"16 bit": "float16", "4 bit": "rtn4"}
for k in (2, 6):
    plans[f"{k} layers low"] = luq.plan(profile, k=k, low=low, high="rtn4")
plans["3 stored bits"] = luq.plan(profile, bits=3.0, low=low, high="rtn4")

for name, plan in plans.items():
    packed = luq.quantize(model, plan, calibration)
    scores = luq.evaluate(packed, BENCHMARKS, data="pocket", samples=SAMPLES)
    shown = [f"{s.benchmark} {s.score:5.1f} ± {s.stderr:.1f} (n={s.n})" for s in scores.values()]
    print(f"{name:14} {packed.memory().stored_bits:6.3f} bits  {'  '.join(shown)}")
