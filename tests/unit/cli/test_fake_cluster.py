"""The fake cluster itself: a socket that it left open would fail whichever test comes next."""

import gc
import socket
import warnings

from unit.cli.fake_cluster import FakeCluster


def test_who_comes_as_it_closes_leaves_nothing_open() -> None:
    with warnings.catch_warnings(record=True) as left_open:
        warnings.simplefilter("always")
        for _ in range(3):
            with FakeCluster().running() as cluster:
                port = int(cluster.url.rpartition(":")[2])
                clients = [socket.create_connection(("127.0.0.1", port)) for _ in range(6)]
            for client in clients:
                client.close()
            del cluster
        gc.collect()
    assert [str(one.message) for one in left_open] == []
