"""Starts the app.py of the folder it is called in, as on a machine that has never seen this project.

python -P hub_utils/starter.py BLOCKED.json

It stands alone, as visitor.py does. BLOCKED is a list of modules that cannot be imported: whatever is installed here
beyond the bundle's requirements, and this project, however it is installed.
"""

import json
import runpy
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.modules.update(dict.fromkeys(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))))
    app = Path.cwd() / "app.py"
    sys.argv = [str(app)]
    sys.path.insert(0, str(app.parent))
    runpy.run_path(str(app), run_name="__main__")
