"""Classes and splits by the names of picture files.

`cat/1.png` is a picture of the class `cat`; `train/cat/1.png` one of the split `train`.
"""

import hashlib
import re
from collections.abc import Iterable, Sequence

from jimgen.errors import UserError

TRAIN_NAMES = ("train", "training")
TEST_NAMES = ("test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation")  # by precedence
_SPLIT_NAME = re.compile(rf"({'|'.join((*TRAIN_NAMES, *TEST_NAMES))})(?:[-_ ]?(?:set|split|data|images|\d{{4}}))?")


def natural(name: str) -> tuple[tuple[str | tuple[int, str], ...], str]:
    """A sort key that compares numbers in names by value: 0, 1, 2, 10, 11; a2, a10. All lists of classes use it.

    Equal numbers (1 and 01) are ordered by their text.
    """
    parts = re.split(r"([0-9]+)", name)  # text, number, ..., text: equal kinds are compared
    key = (part if i % 2 == 0 else (len(part.lstrip("0")), part.lstrip("0")) for i, part in enumerate(parts))
    return tuple(key), name


def class_order(names: Iterable[str]) -> tuple[str, ...]:
    """Distinct class names in `natural` order, which is the order of their labels 0, 1, 2, ..."""
    return tuple(sorted(set(names), key=natural))


def class_of(name: str) -> str | None:
    """The class of a picture by its relative name: the outermost folder, or None without one."""
    first, slash, _ = name.partition("/")
    return first if slash else None


def split_of(folder: str) -> str | None:
    """`train`, or the member of TEST_NAMES in a folder's name; None if the name is not that of a split.

    Case does not matter, and `set`, `split`, `data`, `images` or a year may follow: Train, test_set, val2017.
    """
    match = _SPLIT_NAME.fullmatch(folder.lower())
    return None if match is None else "train" if match[1] in TRAIN_NAMES else match[1]


def split_pair(folders: Sequence[str]) -> tuple[str, str] | None:
    """Two folders whose names differ only in train and test: seg_train and seg_test, trainA and testA."""
    folded = {folder.lower(): folder for folder in folders}
    for name, folder in folded.items():
        for test in TEST_NAMES if "train" in name else ():
            if other := folded.get(name.replace("train", test)):
                return folder, other
    return None


def require_one_kind(names: Sequence[str], where: str) -> None:
    """Refuses pictures beside folders of pictures, as these folders may or may not be classes.

    Raises:
        UserError: some names have a class and some have none.
    """
    loose = next((name for name in names if class_of(name) is None), None)
    folder = next((name for name in names if class_of(name) is not None), None)
    if loose is not None and folder is not None:
        raise UserError(
            f"{where} holds both pictures ({loose}) and folders of pictures ({class_of(folder)}/); "
            "move the loose pictures into a class folder"
        )


def held_out(names: Sequence[str]) -> list[bool]:
    """Chooses a tenth of the pictures as test, by sha1 of their names. Adding pictures moves none of the others.

    Of two or more pictures, each split has at least one.
    """
    digests = [int(hashlib.sha1(name.encode("utf-8", "surrogateescape")).hexdigest(), 16) for name in names]
    is_test = [digest % 10 == 0 for digest in digests]
    if len(names) > 1 and len(set(is_test)) == 1:  # a tiny set: move one picture to the empty split
        is_test[digests.index(min(digests))] ^= True
    return is_test
