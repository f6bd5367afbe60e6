"""A proxy's metrics are read as Prometheus writes them."""

import pytest

from testbed.cluster.scrape import parse_metrics


def test_samples_are_named_with_their_labels_and_comments_are_passed_over() -> None:
    text = (
        "# HELP kubeproxy_x What it is\n"
        "# TYPE kubeproxy_x counter\n"
        'kubeproxy_x{table="nat"} 12.0\n'
        'kubeproxy_x{table="a b} c"} 3\n'
        "kubeproxy_y 1.5e-05\n"
        "kubeproxy_z 2 1700000000000\n"
    )
    assert parse_metrics(text) == {
        'kubeproxy_x{table="nat"}': 12.0,
        'kubeproxy_x{table="a b} c"}': 3.0,
        "kubeproxy_y": 1.5e-05,
        "kubeproxy_z": 2.0,
    }


@pytest.mark.parametrize("text", ['{"pod": "web-1"}', "404 page not found", "kubeproxy_x"])
def test_what_is_no_metrics_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        parse_metrics(text)
