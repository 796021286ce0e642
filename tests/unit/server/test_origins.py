"""Which calls count as one caller's."""

from __future__ import annotations

import tracemalloc

import pytest

from charloom.server.grpc.caller import peer_address
from charloom.server.origins import Origins


@pytest.mark.parametrize(
    ("peer", "address"),
    [
        ("ipv4:203.0.113.7:5000", ("203.0.113.7", 5000)),
        ("ipv6:%5B2001:db8::1%5D:5000", ("2001:db8::1", 5000)),
        ("ipv6:[2001:db8::1]:5000", ("2001:db8::1", 5000)),
        ("unix:", ("", 0)),
        ("unix:/run/charloom.sock", ("", 0)),
        ("unknown", ("", 0)),
    ],
)
def test_the_name_that_grpc_gives_a_peer_has_its_address(peer: str, address: tuple[str, int]) -> None:
    assert peer_address(peer) == address


def test_connections_of_one_address_are_one_caller() -> None:
    origins = Origins()
    assert origins.of("203.0.113.7", 5000) == origins.of("203.0.113.7", 5001) != origins.of("203.0.113.8", 5000)


def test_addresses_that_one_subscriber_can_choose_are_one_caller() -> None:
    origins = Origins()
    assert origins.of("2001:db8:0:1::1", 1) == origins.of("2001:db8:0:1:ffff::2", 2) != origins.of("2001:db8:0:2::1", 1)
    assert origins.of("::ffff:203.0.113.7", 1) == origins.of("203.0.113.7", 2)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_programs_of_this_machine_are_callers_of_their_own(host: str) -> None:
    origins = Origins()
    assert origins.of(host, 5000) == origins.of(host, 5000) != origins.of(host, 5001)


def test_what_comes_through_a_unix_socket_is_one_caller() -> None:
    assert Origins().of("", 0) == Origins().of("", 0, "203.0.113.7") == "unix"


@pytest.mark.parametrize(
    ("trusted", "host", "forwarded", "origin"),
    [
        ("10.0.0.0/8", "10.1.2.3", "203.0.113.7", "203.0.113.7"),
        ("10.0.0.0/8", "10.1.2.3", "198.51.100.1, 203.0.113.7, 10.9.9.9", "203.0.113.7"),
        ("10.1.2.3,10.9.9.9", "10.1.2.3", "203.0.113.7,10.9.9.9", "203.0.113.7"),
        ("10.0.0.0/8", "10.1.2.3", "10.4.4.4", "10.4.4.4"),
        ("10.0.0.0/8", "10.1.2.3", "203.0.113.7:4711", "203.0.113.7"),
        ("10.0.0.0/8", "10.1.2.3", '"[2001:db8::7]:4711"', "2001:db8::/64"),
        ("127.0.0.1", "127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("unix", "", "203.0.113.7", "203.0.113.7"),
        (" fd00::/8 , unix ", "fd00::1", "203.0.113.7", "203.0.113.7"),
    ],
)
def test_a_trusted_proxy_is_believed(trusted: str, host: str, forwarded: str, origin: str) -> None:
    assert Origins(trusted).of(host, 5000, forwarded) == origin


@pytest.mark.parametrize("forwarded", ["198.51.100.1", "198.51.100.2, 198.51.100.3"])
def test_a_client_that_names_other_addresses_stays_who_it_is(forwarded: str) -> None:
    alone = Origins("10.0.0.0/8").of("203.0.113.7", 5000)
    assert Origins("10.0.0.0/8").of("203.0.113.7", 5000, forwarded) == alone
    behind = Origins("10.0.0.0/8").of("10.1.2.3", 5000, f"{forwarded}, 203.0.113.7")
    assert behind == alone, "what a client wrote comes before what the proxy adds"


@pytest.mark.parametrize("forwarded", ["", " , ", "unknown", "198.51.100.1, nonsense", "x" * 10_000])
def test_a_proxy_that_does_not_say_for_whom_it_calls_is_the_caller(forwarded: str) -> None:
    assert Origins("10.0.0.0/8").of("10.1.2.3", 5000, forwarded) == "10.1.2.3"


@pytest.mark.parametrize("trusted", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33"])
def test_a_trusted_proxy_has_to_be_an_address_or_a_network(trusted: str) -> None:
    with pytest.raises(ValueError, match=trusted.split("/")[0]):
        Origins(trusted)


@pytest.mark.parametrize("trusted", ["", "203.0.113.7"])
def test_long_hops_are_not_kept(trusted: str) -> None:
    origins = Origins(trusted)
    tracemalloc.start()
    try:
        for number in range(100):
            hops = f"{'x' * 60_000}{number}, 198.51.100.9"
            assert origins.of("203.0.113.7", 5000, hops) == ("198.51.100.9" if trusted else "203.0.113.7")
        kept, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 500_000
