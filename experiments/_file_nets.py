"""Small nets of many kinds, as torch writes them to files by its three exporters."""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import taut


class Net(nn.Module):
    """Layers by name, and a forward that is a function of them and of the input."""

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any: ...

    def __init__(self, forward: Callable[..., Tensor], **layers: nn.Module | Tensor) -> None:
        super().__init__()
        self.function = forward
        for name, layer in layers.items():
            if isinstance(layer, nn.Module):
                self.add_module(name, layer)
            else:
                self.register_buffer(name, layer, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


class Residual(nn.Module):
    """x + f(x), as ResNets have it, with a projection where shapes differ."""

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False),
            nn.BatchNorm2d(c_out),
            nn.ReLU(inplace=True),
            nn.Conv2d(c_out, c_out, 3, 1, 1, bias=False),
            nn.BatchNorm2d(c_out),
        )
        self.side = nn.Sequential()
        if stride > 1 or c_in != c_out:
            self.side = nn.Sequential(nn.Conv2d(c_in, c_out, 1, stride), nn.BatchNorm2d(c_out))

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        y += self.side(x)
        return F.relu(y)


class UNet(nn.Module):
    """One level down and up again, with a skip connection."""

    def __init__(self, *, transposed: bool) -> None:
        super().__init__()
        self.down, self.bottom = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 4, 2, 2) if transposed else nn.Upsample(scale_factor=2)
        self.last = nn.Conv2d(8 if transposed else 12, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = F.relu(self.down(x))
        b = F.relu(self.bottom(F.max_pool2d(a, 2)))
        return self.last(torch.cat([a, self.up(b)], dim=1))


class WaveNet(nn.Module):
    """Dilated convolutions of signals, padded in front only, with residual sums."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 4, 1)
        self.layers = nn.ModuleList(nn.Conv1d(4, 4, 2, dilation=d) for d in (1, 2, 4))
        self.last = nn.Conv1d(4, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for i, layer in enumerate(self.layers):
            x = x + torch.tanh(layer(F.pad(x, (2**i, 0))))
        return self.last(x).mean(-1)


def norm_inside(m: Net, x: Tensor) -> Tensor:
    return m.body((x - m.mean) / m.std)


def split_and_joined(m: Net, x: Tensor) -> Tensor:
    a, b = torch.chunk(m.first(x), 2, dim=1)
    return m.last(torch.cat([b, m.middle(a)], 1))


def shuffled(m: Net, x: Tensor) -> Tensor:
    """ShuffleNet's channels, in plain reshapes."""
    x = m.first(x)
    b, c, h, w = x.shape
    x = x.view(b, 2, c // 2, h, w).transpose(1, 2).reshape(b, c, h, w)
    return m.last(x)


def scaled(m: Net, x: Tensor) -> Tensor:
    x = 0.5 * m.first(x) - 0.25
    return m.last(torch.sigmoid(1.5 - x) / 4 + x * m.factor)


def tokens(m: Net, x: Tensor) -> Tensor:
    """An MLP over patches: (batch, tokens, features)."""
    x = m.embed(x).flatten(2).transpose(1, 2)
    x = x + m.mix(x.transpose(1, 2)).transpose(1, 2)
    return m.head(F.relu(x).mean(dim=1))


def matrices(m: Net, x: Tensor) -> Tensor:
    return torch.matmul(torch.matmul(x.squeeze(1), m.a).relu(), m.b.t()).unsqueeze(2).sum(2)


def clamped(m: Net, x: Tensor) -> Tensor:
    return m.last(m.first(x).clamp(-0.5, 1.0).abs().neg())


def selected(m: Net, x: Tensor) -> Tensor:
    x = m.first(x)
    return m.last(torch.cat([x[:, :, ::2, 1:], x[:, [2, 0, 1, 3], 1::2, :-1]], 1))


def image(*layers: nn.Module) -> nn.Sequential:
    """Layers behind a convolution that makes 4 channels of 8 x 8, before a head."""
    body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), *layers)
    width = body.eval()(torch.zeros(1, 3, 8, 8)).flatten(1).shape[1]
    return nn.Sequential(*body, nn.Flatten(), nn.Linear(width, 5))


def vgg() -> nn.Sequential:
    layers: list[nn.Module] = []
    for c_in, c_out in ((3, 4), (4, 8)):
        layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(inplace=True)]
        layers += [nn.Conv2d(c_out, c_out, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
    head = [nn.Linear(32, 16), nn.ReLU(inplace=True), nn.Dropout(), nn.Linear(16, 5)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), *head)


def resnet() -> nn.Sequential:
    stem = (nn.Conv2d(3, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
    pool = nn.MaxPool2d(3, 2, 1)
    blocks = (Residual(4, 4), Residual(4, 8, 2))
    return nn.Sequential(*stem, pool, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, 5))  # fmt: skip


def mobilenet() -> nn.Sequential:
    def block(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
        depthwise = nn.Conv2d(c_in, c_in, 3, stride, 1, groups=c_in, bias=False)
        pointwise = nn.Conv2d(c_in, c_out, 1, bias=False)
        norms = nn.BatchNorm2d(c_in), nn.BatchNorm2d(c_out)
        return [depthwise, norms[0], nn.ReLU6(), pointwise, norms[1], nn.ReLU6()]

    layers = [*block(3, 4, 1), *block(4, 8, 2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(1), nn.Linear(8, 5))


def dncnn() -> Net:
    middle = [nn.Conv2d(4, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True)]
    body = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), *middle,
                         nn.Conv2d(4, 1, 3, padding=1))  # fmt: skip
    return Net(lambda m, x: x - m.body(x), body=body)


def decoder() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(6, 32), nn.ReLU(), nn.Unflatten(1, (8, 2, 2)),
        nn.ConvTranspose2d(8, 4, 4, 2, 1), nn.BatchNorm2d(4), nn.ReLU(),
        nn.ConvTranspose2d(4, 1, 3, 2, 1, output_padding=1), nn.Tanh(),
    )  # fmt: skip


def autoencoder() -> nn.Sequential:
    down = (nn.Conv2d(1, 4, 3, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(4, 8, 3, 2, 1), nn.ReLU())
    up = (nn.ConvTranspose2d(8, 4, 2, 2), nn.ReLU(), nn.ConvTranspose2d(4, 1, 2, 2), nn.Sigmoid())
    return nn.Sequential(*down, *up)


def frozen(*layers: nn.Module) -> nn.Module:
    return taut.freeze(nn.Sequential(*layers))


def paper() -> nn.Module:
    return taut.freeze(taut.models.Small().build((1, 8, 8), 3))


def group_sorted() -> nn.Module:
    head = (nn.Flatten(), taut.nn.Linear(24, 9), taut.nn.GroupSort(3), taut.nn.Linear(9, 3))
    return frozen(taut.nn.Conv2d(1, 6, 2, stride=2), taut.nn.GroupSort(2),
                  taut.nn.Conv2d(6, 6, 2, stride=2), *head)  # fmt: skip


def one_dimensional() -> nn.Sequential:
    body = (nn.Conv1d(2, 4, 3, padding=1), nn.BatchNorm1d(4), nn.ReLU(), nn.MaxPool1d(2))
    return nn.Sequential(*body, nn.Conv1d(4, 4, 3, 2, 1), nn.AvgPool1d(2), nn.Flatten(),
                         nn.Linear(8, 3))  # fmt: skip


def three_dimensional() -> nn.Sequential:
    body = (nn.Conv3d(1, 2, 3, padding=1), nn.BatchNorm3d(2), nn.ReLU(), nn.MaxPool3d(2))
    return nn.Sequential(*body, nn.Conv3d(2, 2, 2), nn.Flatten(), nn.Linear(2, 3))


def mlp(activation: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), activation, nn.Linear(8, 4))


def buffers() -> Net:
    mean, std = torch.rand(1, 3, 1, 1), torch.rand(1, 3, 1, 1) + 0.5
    return Net(norm_inside, body=image(nn.ReLU()), mean=mean, std=std)


COLOUR, GREY = (3, 8, 8), (1, 8, 8)
Case = tuple[Callable[[], nn.Module], tuple[int, ...]]
NETS: dict[str, Case] = {
    "vgg": (vgg, COLOUR),
    "resnet": (resnet, COLOUR),
    "mobilenet": (mobilenet, COLOUR),
    "dncnn": (dncnn, GREY),
    "unet upsampled": (lambda: UNet(transposed=False), GREY),
    "unet transposed": (lambda: UNet(transposed=True), GREY),
    "wavenet": (WaveNet, (1, 12)),
    "decoder": (decoder, (6,)),
    "autoencoder": (autoencoder, GREY),
    "strided conv net": (
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
                              nn.Flatten(), nn.Linear(64, 5)),
        COLOUR,
    ),
    "mlp": (lambda: mlp(nn.ReLU()), (3, 4)),
    "mlp tanh": (lambda: mlp(nn.Tanh()), (12,)),
    "mlp leaky": (lambda: mlp(nn.LeakyReLU(0.1)), (12,)),
    "mlp elu": (lambda: mlp(nn.ELU(1.5)), (12,)),
    "mlp selu": (lambda: mlp(nn.SELU()), (12,)),
    "mlp silu": (lambda: mlp(nn.SiLU()), (12,)),
    "mlp gelu": (lambda: mlp(nn.GELU()), (12,)),
    "mlp prelu": (lambda: mlp(nn.PReLU(8)), (12,)),
    "mlp hardtanh": (lambda: mlp(nn.Hardtanh(-0.5, 2.0)), (12,)),
    "mlp normalised": (
        lambda: nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4)),
        (12,),
    ),
    "mlp softmax": (lambda: nn.Sequential(mlp(nn.Softsign()), nn.Softmax(1)), (12,)),
    "signals": (one_dimensional, (2, 16)),
    "volumes": (three_dimensional, (1, 4, 4, 4)),
    "buffers": (buffers, COLOUR),
    "affine": (
        lambda: Net(
            scaled, first=nn.Conv2d(3, 4, 1), last=nn.Conv2d(4, 2, 1), factor=torch.rand(4, 1, 1)
        ),
        COLOUR,
    ),
    "split": (
        lambda: Net(split_and_joined, first=nn.Conv2d(3, 4, 3, padding=1), middle=nn.ReLU(),
                    last=nn.Conv2d(4, 2, 1)),
        COLOUR,
    ),
    "shuffled": (
        lambda: Net(shuffled, first=nn.Conv2d(3, 4, 1), last=nn.Conv2d(4, 4, 3, groups=2)), COLOUR,
    ),
    "tokens": (
        lambda: Net(tokens, embed=nn.Conv2d(3, 6, 4, 4), mix=nn.Linear(4, 4), head=nn.Linear(6, 5)),
        COLOUR,
    ),
    "matrices": (lambda: Net(matrices, a=torch.randn(6, 4), b=torch.randn(3, 4)), (1, 6)),
    "clamped": (
        lambda: Net(clamped, first=nn.Conv2d(3, 4, 3), last=nn.Conv2d(4, 2, 3)), COLOUR,
    ),
    "selected": (
        lambda: Net(selected, first=nn.Conv2d(3, 4, 1), last=nn.Conv2d(8, 2, 1)), COLOUR,
    ),
    "circular": (
        lambda: image(nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular"), nn.ReLU()), COLOUR,
    ),
    "reflected": (
        lambda: image(nn.ReflectionPad2d(1), nn.Conv2d(4, 4, 3), nn.ReplicationPad2d((1, 0, 1, 0)),
                      nn.Conv2d(4, 2, 2)),
        COLOUR,
    ),
    "padded": (
        lambda: image(nn.ZeroPad2d((1, 0, 2, 1)), nn.Conv2d(4, 4, 3), nn.ConstantPad2d(1, 0.5)),
        COLOUR,
    ),
    "same": (lambda: image(nn.Conv2d(4, 4, (2, 4), padding="same"), nn.ReLU()), COLOUR),
    "average pools": (lambda: image(nn.AvgPool2d(2), nn.ReLU(), nn.AvgPool2d(3, 1, 1)), COLOUR),
    "maximum pools": (
        lambda: image(nn.MaxPool2d(3, 2, ceil_mode=True), nn.MaxPool2d(2, 1, dilation=2)), COLOUR,
    ),
    "pixel shuffle": (
        lambda: nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(),
                              nn.PixelShuffle(2)),
        GREY,
    ),
    "means over axes": (
        lambda: Net(lambda m, x: m.head(m.body(x).mean((2, 3))), body=nn.Conv2d(3, 4, 3),
                    head=nn.Linear(4, 3)),
        COLOUR,
    ),
    "dilated": (
        lambda: image(nn.Conv2d(4, 6, 3, 2, 2, dilation=2, groups=2), nn.LeakyReLU()), COLOUR,
    ),
    "transposed groups": (
        lambda: nn.Sequential(nn.ConvTranspose1d(2, 4, 3, 2, 1, output_padding=1, groups=2),
                              nn.ReLU(), nn.ConvTranspose1d(4, 2, 3, dilation=2, bias=False)),
        (2, 7),
    ),
    "paper": (paper, GREY),
    "maxmin": (
        lambda: frozen(taut.nn.Linear(8, 7), taut.nn.MaxMin(), taut.nn.Linear(7, 4)), (8,),
    ),
    "group sort": (group_sorted, GREY),
}  # fmt: skip


def made(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """A net with weights that are no defaults, and the shape of one input."""
    make, shape = NETS[name]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make().eval()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                for tensor in (*module.parameters(), module.running_mean, module.running_var):
                    assert tensor is not None
                    nn.init.uniform_(tensor, 0.5, 1.5)
    return model, shape


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Exporters print, and warn of what they will drop."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def write_onnx(model: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    """As `torch.onnx.export` writes by default: weights in a file beside it, a batch of 1."""
    path = path.with_suffix(".onnx")
    torch.onnx.export(model, (torch.zeros(1, *shape),), path, verbose=False)
    return path


def write_old_onnx(model: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    """By the exporter that follows TorchScript; the batch is open."""
    path = path.with_suffix(".onnx")
    names = {"input_names": ["x"], "output_names": ["y"], "dynamic_axes": {"x": {0: "batch"}}}
    x = torch.zeros(2, *shape)
    torch.onnx.export(model, (x,), path, dynamo=False, opset_version=17, **names)
    return path


def write_program(model: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    """As `torch.export.save` writes it; the batch is open."""
    path = path.with_suffix(".pt2")
    dims = ({0: torch.export.Dim("batch")},)
    x = torch.zeros(2, *shape)
    torch.export.save(torch.export.export(model, (x,), dynamic_shapes=dims), path)
    return path


def write_decomposed(model: nn.Module, shape: tuple[int, ...], path: Path) -> Path:
    """A batch of 1 and the core operators."""
    path = path.with_suffix(".pt2")
    program = torch.export.export(model, (torch.zeros(1, *shape),)).run_decompositions()
    torch.export.save(program, path)
    return path


EXPORTERS: dict[str, Callable[[nn.Module, tuple[int, ...], Path], Path]] = {
    "torch.onnx.export": write_onnx,
    "torch.onnx.export, dynamo=False": write_old_onnx,
    "torch.export.save": write_program,
    "torch.export.save, decomposed": write_decomposed,
}


def write_all(folder: Path, names: Iterable[str]) -> None:
    """A file of each net by each exporter: FOLDER/NET/NUMBER OF EXPORTER/net.*."""
    for name in names:
        model, shape = made(name)
        for number, write in enumerate(EXPORTERS.values()):
            place = folder / name / str(number)
            place.mkdir(parents=True)
            with quiet():
                write(model, shape, place / "net")
