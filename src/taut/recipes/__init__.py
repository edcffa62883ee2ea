"""Published tables and our own results as recipes: data, one file each.

To add one, write a file with a `RECIPE` and add its line here.
"""

from taut.recipes import (
    cifar10_jpeg75_large,
    demo,
    fashion_mnist_large,
    mnist_large,
    mnist_large_certified,
    mnist_large_paper,
    mnist_small,
    mnist_small_paper,
)
from taut.training import Recipe

RECIPES: dict[str, Recipe] = {
    module.RECIPE.name: module.RECIPE
    for module in (
        demo,
        mnist_small,
        mnist_large,
        mnist_small_paper,
        mnist_large_paper,
        mnist_large_certified,
        fashion_mnist_large,
        cifar10_jpeg75_large,
    )
}

__all__ = ["RECIPES"]
