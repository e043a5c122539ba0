"""Engines: what answers requests.

llama.cpp's threads meet at barriers many times a token, and libgomp lets them spin
there for as long as a time slice by default.  Beside one busy process 2 threads on 2
cores then decoded 5 tokens/s; with a short spin it was 30, and alone nothing was lost
(106 and 118).  libgomp reads the variable when it is loaded, so it is set here, before
`llama` can be imported.
"""

import os

os.environ.setdefault("GOMP_SPINCOUNT", "1000")
