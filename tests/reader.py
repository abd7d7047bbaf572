"""A process that reads a run again and again while another one trains it: python tests/reader.py RUN.

It goes on until its stdin is closed, then prints how often each command was answered. What a command may say of a run
that has just begun ("no checkpoint yet") is no fault; everything else ends the process with a traceback.
"""

import contextlib
import io
import select
import sys
from pathlib import Path

from jimgen import cli

NOT_YET = ("has no checkpoint yet", "is not a run", "no runs in", "holds no run", "there is no", "is not a folder")


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
    while not select.select([sys.stdin], [], [], 0)[0]:
        for name, arguments in commands.items():
            answered[name] += answer(name, arguments)
    print(answered)


def answer(name: str, arguments: list[str]) -> bool:
    """Whether a command did its work; False where the run is too young for it."""
    sys.argv = ["jimgen", name, *arguments]
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            cli.main()
    except SystemExit as stop:
        if stop.code != 2 or not any(words in said.getvalue() for words in NOT_YET):
            raise RuntimeError(f"{name} ended with {stop.code}: {said.getvalue()}") from stop
        return False
    if "corrupt" in said.getvalue():
        raise RuntimeError(f"{name}: {said.getvalue()}")
    return True


if __name__ == "__main__":
    main(Path(sys.argv[1]))
