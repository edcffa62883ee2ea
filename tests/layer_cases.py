"""Sizes and arguments of convolutions that tests of several packages go through."""

import itertools

SIZES = [(6, 6), (4, 8), (5, 7), (1, 3), (2, 2)]
KERNELS = [  # kernel size, stride
    (1, 1),
    (2, 1),
    (3, 1),
    (4, 1),
    (5, 1),
    ((1, 4), 1),
    ((3, 2), 1),
    (2, 2),
    (4, 2),
    (3, 3),
    ((6, 4), (3, 2)),
    ((4, 3), (2, 1)),
]
CHANNELS = [(1, 1), (1, 4), (3, 3), (4, 2), (2, 7)]
PADDINGS = [  # padding, mode
    ("same", "circular"),
    ("valid", "circular"),
    (1, "circular"),
    ("same", "zeros"),
    ("valid", "zeros"),
    (1, "zeros"),
    ((0, 3), "zeros"),
]


def accepted(padding, mode: str, kernel_size) -> bool:
    pair = (kernel_size, kernel_size) if isinstance(kernel_size, int) else kernel_size
    return mode == "zeros" or padding in ("same", "valid") or all(2 * padding < k for k in pair)


def cases():
    for (kernel_size, stride), channels, (padding, mode) in itertools.product(
        KERNELS, CHANNELS, PADDINGS
    ):
        single = channels == (1, 1) and stride == 1 and kernel_size != 1  # shifts alone
        if accepted(padding, mode, kernel_size) and not single:
            yield kernel_size, stride, channels, padding, mode
