import os

# Before torch is first imported, here and in the processes that tests start: models this small are slower on several
# threads than on one, and much slower beside other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")
