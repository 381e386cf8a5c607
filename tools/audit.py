"""Look all locked packages up among known vulnerabilities: ``make audit``.

pip-audit asks the package index for its advisories. An index that has none answers "not found" to every package, and
pip-audit then finds no vulnerability; here that is a failure of its own. Exit codes: 0 all looked up and nothing known,
1 vulnerabilities, 3 not (all) looked up.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parent.parent / "requirements"
LOCKS = ("lock.txt", "torch-cuda.txt", "build.txt", "tools.txt")


def main() -> int:
    """Ask for one lock after the other, and report on all."""
    packages: list[dict[str, Any]] = []
    for lock in LOCKS:
        command = [sys.executable, "-m", "pip_audit", "-r", str(FOLDER / lock), "--no-deps", "--disable-pip"]
        done = subprocess.run([*command, "--format", "json"], capture_output=True, text=True, check=False)
        try:
            packages += json.loads(done.stdout)["dependencies"]
        except ValueError:
            last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
            sys.stderr.write(f"NOT AUDITED: no answer about {lock}: {last}\n")
            return 3
    return report(packages)


def report(packages: list[dict[str, Any]]) -> int:
    """Print what pip-audit answered, and return the exit code."""
    skipped = sorted({one["name"] for one in packages if "skip_reason" in one})
    known = [(one, vulnerability) for one in packages for vulnerability in one.get("vulns", ())]
    for package, vulnerability in known:
        fixed = ", ".join(vulnerability["fix_versions"]) or "no version yet"
        sys.stdout.write(f"{package['name']} {package['version']}: {vulnerability['id']}, fixed in {fixed}\n")
    looked_up = sum("skip_reason" not in one for one in packages)
    sys.stdout.write(f"{looked_up} of {len(packages)} packages looked up, {len(known)} known vulnerabilities\n")
    if skipped:
        why = "the index has no advisories of these" if looked_up else "the index has no advisories"
        sys.stderr.write(f"NOT AUDITED: {why}: {', '.join(skipped[:5])}{', ...' * (len(skipped) > 5)}\n")
    if known:
        return 1
    return 3 if skipped or not packages else 0


if __name__ == "__main__":
    sys.exit(main())
