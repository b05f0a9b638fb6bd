"""JSON files of RTNeural, and of AIDA-X, which adds gains and a way around the network.

https://github.com/jatinchowdhury18/RTNeural, https://github.com/AidaDSP/AIDA-X
"""

from .export import to_rtneural
from .load import load_rtneural

__all__ = ["load_rtneural", "to_rtneural"]
