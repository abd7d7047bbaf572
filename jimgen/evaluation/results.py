"""The folder of an evaluation: names of its files, and a reader of evaluation.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jimgen.errors import UserError
from jimgen.files import is_number, read_json

RESULTS, NEAREST, EXTREMES = "evaluation.json", "nearest.png", "extremes.png"


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """Reads an evaluation.json of `jimgen evaluate`; None if there is no file.

    Raises:
        UserError: the file is damaged, or is not an evaluation.
    """
    fix = "run `jimgen evaluate` again"
    found = read_json(path, fix)
    if found is not None and "figures" in found:  # the name of metrics in earlier versions
        found["metrics"] = found.pop("figures")
    if found is not None and not _is_evaluation(found):
        raise UserError(f"{path} is damaged (parts are missing or of another kind): {fix}")
    return found


def _is_evaluation(found: Mapping[str, Any]) -> bool:
    """Whether all parts that readers use are present, with the right types."""
    try:
        counts, rows, classes = found["num_real"], found["metrics"].values(), found.get("per_class") or []
        numbers = [found["num"], counts["train"], counts["test"], *(row["value"] for row in rows)]
        texts = [found["data"]["name"], *(net["weights_hash"] for net in found["extractors"].values())]
        texts += [row["class"] for row in classes]
        optional = [value for row in rows for value in row.values()]
        optional += [value for row in classes for name, value in row.items() if name != "class" and value is not None]
        changes = found.get("subject", {}).get("changes", [])
    except (KeyError, TypeError, AttributeError):
        return False
    of_kind = all(map(is_number, numbers + optional)) and all(isinstance(text, str) for text in texts)
    return of_kind and isinstance(changes, list)
