"""Any prepared TFDS set of images, read by random access and without TensorFlow."""

import contextlib
import difflib
import io
from collections.abc import Iterator
from typing import Any

import numpy as np

from jimgen.data import images as pictures
from jimgen.data.dataset import UNLABELLED, Source, Stream
from jimgen.errors import UserError


def open_tfds(name: str, *, data_dir: str | None, download: bool, reading: pictures.Reading = pictures.PLAIN) -> Source:
    """A prepared set by its TFDS name (`cifar10`, `name/config`, `name:1.0.0`), as streams.

    Train is the split `train`. Test is `test`, else `validation`, else the last tenth of train (TFDS shuffles when it
    prepares). Without a ClassLabel feature the set is unlabelled.

    Raises:
        UserError: the set does not exist, is not prepared and `download` is false, is prepared without random access,
            or has no images.
    """
    if ":" in name and not name.rpartition(":")[2][:1].isdigit():  # a look-up would use the network
        raise UserError(f"tfds:{name}: sets of other namespaces are not supported; what follows a colon is a version")
    with quiet():
        import tensorflow_datasets as tfds

        try:
            builder = tfds.builder(name, data_dir=data_dir)
        except tfds.core.DatasetNotFoundError as error:
            nearest = difflib.get_close_matches(name, tfds.list_builders(with_community_datasets=False), n=1)
            guess = f"; did you mean tfds:{nearest[0]}?" if nearest else ""
            raise UserError(f"TFDS has no data set {name!r}{guess}") from error
        except (AssertionError, ValueError) as error:
            raise UserError(f"TFDS cannot open {name!r}: {str(error).splitlines()[0]}") from error
        if not builder.is_prepared():
            where = f", data_dir={str(data_dir)!r}" if data_dir else ""
            if not download:
                raise UserError(
                    f"tfds:{name} is not prepared in {builder.data_dir}. To download and prepare it, once:\n"
                    f"""  python -c "import jimgen.data as d; d.load('tfds:{name}'{where}, download=True)\""""
                )
            prepare(builder, tfds.download.DownloadConfig(try_download_gcs=False))
        return source_of(builder, reading)


def prepare(builder: Any, config: Any) -> None:
    """Prepares a TFDS builder as ArrayRecord files, which can be read row by row.

    Raises:
        UserError: the download fails, or the set's own code needs TensorFlow.
    """
    try:
        builder.download_and_prepare(download_config=config, file_format="array_record")
    except ImportError as error:
        raise UserError(
            f"TFDS cannot prepare {builder.name} here ({str(error).splitlines()[0]}).\n"
            "Some sets need TensorFlow for preparation, but not for reading: pip install tensorflow, and try again"
        ) from error
    except Exception as error:  # network, disk, checksums: each set raises its own
        raise UserError(f"TFDS could not prepare {builder.name}: {str(error) or type(error).__name__}") from error


def source_of(builder: Any, reading: pictures.Reading = pictures.PLAIN) -> Source:
    """The streams of a prepared TFDS builder.

    Raises:
        UserError: the format has no random access, or there is no train split or no image feature.
    """
    import tensorflow_datasets as tfds

    features, splits = builder.info.features, builder.info.splits
    image_keys = [key for key, feature in features.items() if isinstance(feature, tfds.features.Image)]
    label_keys = [key for key, feature in features.items() if isinstance(feature, tfds.features.ClassLabel)]
    keys = [key for key in builder.info.supervised_keys or () if isinstance(key, str)]
    image_key = next((key for key in [*keys, *image_keys] if key in image_keys), None)
    label_key = next((key for key in [*keys, "label", *label_keys[:1]] if key in label_keys), None)
    if image_key is None:
        raise UserError(f"tfds:{builder.name} has no image: its features are {', '.join(features)}")
    if "train" not in splits:
        raise UserError(f"tfds:{builder.name} has no split train: its splits are {', '.join(splits)}")
    test_split = next((split for split in ("test", "validation") if split in splits), None)
    train_split = "train" if test_split else "train[:90%]"

    def stream(split: str) -> Stream:
        try:
            # The bytes come as stored, and are decoded like all other pictures.
            rows = builder.as_data_source(split=split, decoders={image_key: tfds.decode.SkipDecoding()})
        except NotImplementedError as error:
            raise UserError(
                f"tfds:{builder.name} is prepared in {builder.data_dir} without random access; "
                "give another data_dir and prepare it there as array_record"
            ) from error

        def read(row: int) -> tuple[np.ndarray, int]:
            example = rows[int(row)]
            label = int(example[label_key]) if label_key else 0
            if label < 0:
                raise UserError(
                    f"tfds:{builder.name}: row {row} of {split} has label {label}; that split has no labels"
                )
            file = io.BytesIO(example[image_key])
            return pictures.decode(file, name=f"{split} row {row}", **reading._asdict()), label

        def size(row: int) -> tuple[int, int]:
            return pictures.read_shape(io.BytesIO(rows[int(row)][image_key]), name=f"{split} row {row}")[:2]

        identity = f"tfds {builder.info.full_name} {split} {len(rows)} {splits[split].num_bytes}"
        return Stream(read, len(rows), identity, size=size if height is None or width is None else None)

    height, width, channels = features[image_key].shape
    return Source(
        train=stream(train_split),
        test=stream(test_split or "train[90%:]"),
        class_names=tuple(features[label_key].names) if label_key else UNLABELLED,
        shape=(height, width, 1 if channels == 1 else 3),
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Within the block, TFDS shows no progress bars, prints no notices, and logs no warnings on prepared sets."""
    import tensorflow_datasets as tfds
    from absl import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    tfds.disable_progress_bar()
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.set_verbosity(verbosity)
