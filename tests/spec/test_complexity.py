"""The counts, against the real module, fvcore and the paper's Tables 2 and 3."""

from statistics import mean, stdev

import pytest
import torch
from conftest import THETA, tiny_spec
from counting import aggregation_macs, count
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis

from randwire_det import generate
from randwire_det.errors import UserError
from randwire_det.network import RandWire, RandWireClassifier
from randwire_det.spec.complexity import complexity


def papers(regime, channels, seed):
    return generate("ws", seed=seed, regime=regime, channels=channels, k=4, p=0.75)


def num_params(module):
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("generator", THETA)
@pytest.mark.parametrize("regime", ["small", "regular"])
@pytest.mark.parametrize(("channels", "size"), [(3, 33), (4, 64)])
def test_counts_equal_those_of_the_real_module(generator, regime, channels, size):
    spec = tiny_spec(generator, regime=regime, channels=channels)
    image = torch.randn(1, 3, size, size)
    classifier = RandWireClassifier(spec, 7, head_channels=20).eval()
    counted = complexity(spec, size, num_classes=7, head_channels=20)
    assert counted.params == num_params(classifier)
    conv_and_fc = count(FlopCountAnalysis, classifier, image)
    assert counted.macs == conv_and_fc + aggregation_macs(spec, image)
    assert counted.activations == count(ActivationCountAnalysis, classifier, image)


@pytest.mark.parametrize("generator", THETA)
def test_counts_of_the_trunk_alone(generator):
    spec, image = tiny_spec(generator, seed_per_stage=True), torch.randn(1, 3, 45, 45)
    trunk = RandWire(spec).eval()
    counted = complexity(spec, 45, num_classes=None)
    assert counted.params == num_params(trunk)
    assert counted.macs == count(FlopCountAnalysis, trunk, image) + aggregation_macs(spec, image)
    assert counted.activations == count(ActivationCountAnalysis, trunk, image)


@pytest.mark.parametrize(
    ("regime", "channels", "seed"), [("small", 78, 1), ("regular", 109, 3), ("regular", 154, 5)]
)
def test_parameters_of_the_papers_networks(regime, channels, seed):
    spec = papers(regime, channels, seed)
    with torch.device("meta"):
        classifier = RandWireClassifier(spec)
    assert complexity(spec).params == num_params(classifier)
    assert complexity(spec, num_classes=None).params == num_params(classifier.trunk)


@pytest.mark.parametrize(
    ("regime", "channels", "params", "giga_macs"),
    [
        ("regular", 109, "31.9 ± 0.66", "4.0 ± 0.09"),
        ("regular", 154, "61.5 ± 1.32", "7.9 ± 0.18"),
        ("small", 78, "5.6 ± 0.1", None),
    ],
)
def test_tables_2_and_3(regime, channels, params, giga_macs):
    """The paper's figures to its last printed digit, sample std over seeds 1 to 5."""
    counts = [complexity(papers(regime, channels, seed)) for seed in range(1, 6)]

    def printed_like(text, values):
        digits = [len(part.partition(".")[2]) for part in text.split(" ± ")]
        return f"{mean(values):.{digits[0]}f} ± {stdev(values):.{digits[1]}f}"

    assert printed_like(params, [each.params / 1e6 for each in counts]) == params
    macs = [each.macs / 1e9 for each in counts]
    if giga_macs:
        assert printed_like(giga_macs, macs) == giga_macs
    else:  # Table 2 prints 583 ± 6.2 M, of which the last digit is not met
        assert mean(macs) == pytest.approx(0.583, abs=0.001)
        assert stdev(macs) == pytest.approx(0.0062, abs=0.0001)


def test_a_larger_image_costs_more_but_has_no_more_parameters():
    """Table 4: C=154 on 320 x 320 pixels takes 16.0 ± 0.36 B."""
    counts = [complexity(papers("regular", 154, seed), 320) for seed in range(1, 6)]
    assert [each.params for each in counts] == [
        complexity(papers("regular", 154, seed)).params for seed in range(1, 6)
    ]
    giga_macs = [each.macs / 1e9 for each in counts]
    assert f"{mean(giga_macs):.1f} ± {stdev(giga_macs):.2f}" == "16.0 ± 0.36"


@pytest.mark.parametrize(
    ("argument", "bad"),
    [
        *(("input_size", bad) for bad in (0, -1, 33.0, "33", None, True)),
        *(("num_classes", bad) for bad in (0, -1, 7.0, "7")),
        *(("head_channels", bad) for bad in (0, -1, 7.0, "7")),
    ],
)
def test_a_bad_size_is_refused(argument, bad):
    with pytest.raises(UserError) as caught:
        complexity(tiny_spec(), **{argument: bad})
    assert repr(bad) in str(caught.value)
