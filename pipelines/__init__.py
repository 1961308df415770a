import os

# Read when tqdm is imported: lm-eval and datasets draw bars that cannot be switched off otherwise.
# Downloads keep theirs.
os.environ.setdefault("TQDM_DISABLE", "1")
# Read when torch is imported: threads that wait by spinning make two processes on one machine a
# hundred times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
