"""What a model answers to images that come as files: read and decoded ahead of the network, in batches."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Any, TypeVar

import numpy as np

from hub_utils.portable.classifier import batch_size, forward
from training.data.images import look, open_rgb
from training.recipe import first_line

T = TypeVar("T")


def answers(
    classifier: Any, items: Iterable[T], read: Callable[[T], bytes | None]
) -> Iterator[tuple[T, np.ndarray | str]]:
    """Each of `items` with its logits, (classes,), or with the reason why there are none.

    `read` gives an image's encoded bytes, None if they are gone; an `OSError` of its is such a reason as well. While
    the network works on a batch, the next one is made ready.
    """

    def ready(item: T) -> Any:
        try:
            content = read(item)
            reason = "the file is gone" if content is None else look(content).reason
            return reason or classifier.preprocess(open_rgb(content))
        except OSError as error:
            return f"cannot be opened: {error.strerror or first_line(error)}"
        except Exception as error:  # `look` may have decoded a part only
            return f"cannot be read: {first_line(error)}"

    items, size = iter(items), batch_size(classifier)
    with ThreadPoolExecutor(os.cpu_count()) as pool:

        def begin() -> list[tuple[T, Any]]:
            return [(item, pool.submit(ready, item)) for item in islice(items, size)]

        ahead = begin()
        while ahead:
            batch, ahead = [(item, future.result()) for item, future in ahead], begin()
            good = [inputs for _, inputs in batch if not isinstance(inputs, str)]
            logits = iter(forward(classifier, good) if good else ())
            for item, inputs in batch:
                yield item, inputs if isinstance(inputs, str) else next(logits)
