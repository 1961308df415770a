import os

# Read when tqdm is imported: lm-eval and datasets draw bars that cannot be switched off otherwise. Downloads keep theirs.
os.environ.setdefault("TQDM_DISABLE", "1")
