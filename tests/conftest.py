import os

# Before torch is first imported, here and in the processes that tests start: models this small are slower on several
# threads than on one, and much slower beside other tests.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hypothesis import settings

# Its deadline of 200 ms for an example is missed where other programs run too, which says nothing of the code.
settings.register_profile("here", deadline=None)
settings.load_profile("here")
