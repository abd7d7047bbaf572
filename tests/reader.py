"""A process that reads a run again and again while another one trains it: python tests/reader.py RUN.

It goes on until its stdin is closed, then prints how often each command was answered. A command may refuse a run that
has no checkpoint yet; everything else than its work ends the process with a traceback.
"""

import contextlib
import io
import select
import sys
from pathlib import Path

from jimgen import cli

PAUSE = 1.0  # seconds between rounds


def main(run: Path) -> None:
    commands = {
        "sample": [str(run), "--num", "4"],
        "reconstruct": [str(run), "--num", "4"],
        "evaluate": [str(run), "--num", "40", "--metrics", "fd", "--extractors", "digits_classifier"],
        "report": [str(run)],
        "runs": [str(run.parent)],
    }
    answered = dict.fromkeys(commands, 0)
    print("ready", flush=True)
    while not select.select([sys.stdin], [], [], PAUSE)[0]:
        for name, arguments in commands.items():
            young = not any(path.name.isdecimal() for path in (run / "checkpoints").glob("*"))
            answered[name] += answer(name, arguments, young)
    print(answered)


def answer(name: str, arguments: list[str], young: bool) -> bool:
    """Whether a command did its work; it may refuse, where the run was young."""
    sys.argv = ["jimgen", name, *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            cli.main()
    except SystemExit as stop:
        if stop.code != 2 or not young:
            raise RuntimeError(f"{name} ended with {stop.code}: {said.getvalue()}") from stop
        return False
    if "corrupt" in said.getvalue():
        raise RuntimeError(f"{name}: {said.getvalue()}")
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
