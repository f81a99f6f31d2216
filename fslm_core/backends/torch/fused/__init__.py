"""The fast executor for Llama-family decoders; :mod:`..generic` is the reference it is tested against.

One forward takes whatever is in flight, whichever request, stage or adapter it belongs to, as one packed list of
tokens without padding. Read :mod:`.flight` first: it moves the rows; :mod:`.forward` is the arithmetic.
"""

from __future__ import annotations
