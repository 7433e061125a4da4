"""The preflight's findings as a text for a person."""

import textwrap
from collections.abc import Sequence

from keras_alexnet.preflight_checks import rules
from keras_alexnet.preflight_checks.measuring import Measured

_WIDTH = 96
# Heading, name of the figure, format.
_COLUMNS = (
    ("output rms", "rms", ".3g"),
    ("photo's share", "photo_share", ".2g"),
    ("dead units", "dead", ".0%"),
    ("gradient rms", "gradient_rms", ".2g"),
    ("first update", "update", ".2g"),
)


def text(measured: Measured, judgement: rules.Judgement) -> str:
    """The layers at the start, the first losses, and the verdict with its reasons.

    Args:
        measured: what was seen.
        judgement: what the rules make of it.
    """
    parts = [_layer_table(measured), _losses(measured), _verdict(judgement)]
    return "\n\n".join(part for part in parts if part)


def _layer_table(measured: Measured) -> str:
    if not measured.layers:
        return ""
    head = f"{'layer':7}" + "".join(f"{heading:>15}" for heading, _, _ in _COLUMNS)
    lines = [head]
    for layer, row in measured.layers.items():
        cells = [format(row[name], spec) if name in row else "" for _, name, spec in _COLUMNS]
        lines.append(f"{layer:7}" + "".join(f"{cell:>15}" for cell in cells))
    return "\n".join(lines)


def _losses(measured: Measured) -> str:
    if not measured.losses:
        return ""
    known = f"{measured.figures['class_entropy']:.2f}"
    return "\n".join(
        [
            _wrap(f"loss of the first {len(measured.losses)} steps ({known}: nothing learned):"),
            _wrap(_numbers(measured.losses), "    "),
            _wrap(f"loss of the same few photos, {len(measured.handful_losses)} times:"),
            _wrap(_numbers(measured.handful_losses), "    "),
        ]
    )


def _numbers(losses: Sequence[float]) -> str:
    return " ".join(format(loss, ".2f" if loss < 1000 else ".2g") for loss in losses)


def _verdict(judgement: rules.Judgement) -> str:
    lines = [f"verdict: {judgement.verdict}"]
    for finding in judgement.findings:
        lines.append(_wrap(f"{finding.verdict}: {finding.reason}", "  "))
        lines.append(_wrap(f"try: {finding.knob}", "    "))
    return "\n".join(lines)


def _wrap(line: str, indent: str = "") -> str:
    return textwrap.fill(
        line, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )
