"""The fresh process: load the students in the given folders, and leave a reply in each."""

import sys
from pathlib import Path

from bench.contract.reload import reply

for argument in sys.argv[1:]:
    reply(Path(argument))
