from __future__ import annotations

import socket

import pytest

from fleet.cluster.session import check_address
from fleet.errors import ClusterError, InputError


@pytest.mark.parametrize(
    "address", ["http://127.0.0.1:8265", "127.0.0.1", "head:port", "ray://head", ":6379x"]
)
def test_what_is_no_address_is_refused_with_the_right_form(address: str) -> None:
    with pytest.raises(InputError, match="write host:port"):
        check_address(address)


@pytest.mark.parametrize("scheme", ["", "ray://"])
def test_a_closed_port_is_told_at_once(scheme: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nothing answers, nobody else takes it
        with pytest.raises(ClusterError, match="is the cluster up"):
            check_address(f"{scheme}127.0.0.1:{taken.getsockname()[1]}")


def test_an_open_port_passes() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        check_address(f"ray://127.0.0.1:{server.getsockname()[1]}")
        check_address("auto")
