"""Raw arXiv sources to packed tokens, one standalone script a stage.

What cleans LaTeX runs as it is written here, or, after `python data_prep/compile_cleaner.py`, compiled from the same files.
"""

import hashlib
import json
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
COMPILED = FOLDER / "compiled"
TO_COMPILE = tuple(
    """flatten latex_acronyms latex_characters latex_conditionals latex_definitions latex_drawings latex_environments latex_formats
    latex_formulas latex_front latex_macros latex_prose latex_quantities latex_scan latex_source latex_tables""".split()
)


def source_fingerprint() -> dict[str, str]:
    """What compiled modules are good for: this Python, and the SHA-256 of each source file."""
    files = {f"{name}.py": hashlib.sha256((FOLDER / f"{name}.py").read_bytes()).hexdigest() for name in TO_COMPILE}
    return {"python": f"{sys.implementation.cache_tag}-{sys.platform}", **files}


def use_compiled() -> str:
    """Import the compiled modules from here on, if they were made from these sources; which form is used, for a log."""
    if os.environ.get("INTERPRETED_CLEANER") or not (COMPILED / "manifest.json").exists():
        return "interpreted"
    if json.loads((COMPILED / "manifest.json").read_text()) != source_fingerprint():
        return "interpreted (what data_prep/compiled holds was made from other sources: run data_prep/compile_cleaner.py again)"
    __path__.insert(0, str(COMPILED / "data_prep"))
    sys.path.append(str(COMPILED))  # the library that the compiled modules share
    return "compiled"


cleaner_form = use_compiled()
