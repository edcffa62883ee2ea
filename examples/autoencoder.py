"""Denoise images by a 1-Lipschitz U-Net: its output moves by no more than its input does.

python examples/autoencoder.py --epochs 3
"""

import argparse
from collections.abc import Sequence

import torch
from torch import nn

import taut


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down1 = nn.Sequential(taut.nn.Conv2d(1, 16, 3, stride=2), taut.nn.MaxMin())
        self.down2 = nn.Sequential(taut.nn.Conv2d(16, 64, 3, stride=2), taut.nn.MaxMin())
        self.up2 = nn.Sequential(taut.nn.ConvTranspose2d(64, 16, 3, stride=2), taut.nn.MaxMin())
        self.join, self.up1 = taut.nn.ConvexConcat(), taut.nn.ConvTranspose2d(32, 1, 3, stride=2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        skip = self.down1(images)
        return self.up1(self.join(skip, self.up2(self.down2(skip))))


def main(arguments: Sequence[str] | None = None) -> nn.Module:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--export", metavar="FILE", help="such as unet.onnx, to run without taut")
    options = parser.parse_args(arguments)

    torch.manual_seed(0)
    data, noise = taut.data.load("fashion-mnist-subset"), 0.4
    model, mse = UNet(), nn.MSELoss()
    images = data.test.float_images()[:200]
    noisy = images + noise * torch.randn_like(images)
    optimiser = torch.optim.Adam(model.parameters(), lr=2e-2)
    for epoch in range(1, options.epochs + 1):
        for batch, _ in taut.data.batches(data.train, 64, seed=0, epoch=epoch):
            optimiser.zero_grad()
            mse(model(batch + noise * torch.randn_like(batch)), batch).backward()
            optimiser.step()
        print(f"epoch {epoch}: error {mse(noisy, images):.4f} -> {mse(model(noisy), images):.4f}")
    frozen, change, stretch = taut.freeze(model.eval()), torch.randn_like(images), torch.zeros(1)
    for _ in range(20):  # ascent to the change of norm 1 that moves the output most
        change = nn.functional.normalize(change.flatten(1)).view_as(images).requires_grad_()
        stretch = (frozen(images + change) - frozen(images)).flatten(1).norm(dim=1)
        (change,) = torch.autograd.grad(stretch.sum(), change)
    print(taut.lipschitz_bound(frozen, data.input_shape))
    print(f"the worst change that ascent finds is stretched by {stretch.max():.7f}")
    if options.export:
        taut.export.export(frozen, options.export, data.input_shape)
    return frozen


if __name__ == "__main__":
    main()
