"""`taut certify`."""

from pathlib import Path

from taut.certification import Certification
from taut.certification import certify as certify_model
from taut.cli.shared import Device, Eps, Opened, RunFolder, check_eps, open_run, percent, show_table
from taut.files import write_atomically


def certify(run: RunFolder, *, eps: Eps = (), device: Device = "auto") -> None:
    """Prove how many test images keep their correct answer within l2 distances.

    Writes certificate.json into the run folder.

    Example: taut certify runs/demo --eps 0.1 36/255

    Args:
        run: the run folder.
        eps: l2 radii, pixels in [0, 1]; those of the recipe if not given.
        device: auto takes a GPU if there is one.
    """
    opened = open_run(run, device)
    target, found = save_certificate(opened, eps)
    clean = percent(found.clean_accuracy)
    rows = [(str(text), clean, percent(share)) for text, share in found.certified_accuracy.items()]
    show_table(opened.title(len(opened.labels)), ("eps", "clean", "certified"), rows)
    print(f"\nLipschitz bound in l2: {float(found.bound):.9g}\n\n{found.bound}\n\nWrote {target}")


def save_certificate(opened: Opened, eps: tuple[str, ...] = ()) -> tuple[Path, Certification]:
    """Certify the whole test set and write the certificate into the run folder."""
    radii = check_eps(eps, opened.run)
    found = certify_model(opened.model, opened.images, opened.labels, eps=radii)
    target = opened.run.path / "certificate.json"
    write_atomically(target, (found.to_json() + "\n").encode())
    return target, found
