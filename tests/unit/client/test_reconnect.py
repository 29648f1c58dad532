"""Both clients beside daemons that leave, refuse or are silent: what is asked again, what is not, and what users hear."""

from __future__ import annotations

import asyncio
import inspect
import threading

import pytest

from routerd import aio
from routerd.client import asynchronous, connect, retry, synchronous
from routerd.errors import BadRequest, DaemonUnreachable, LimitExceeded, Overloaded, ShuttingDown
from tests.unit.client.scripted import daemons, echoes, is_silent, leaves, refuses, turns_away

DRAINS = refuses(ShuttingDown("the daemon is shutting down and takes no new work"))


class Client:
    """The synchronous or the asyncio client, used the same way: ``use(path, steps)`` gives the results of each step."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.module = synchronous if kind == "synchronous" else asynchronous

    def use(self, path, *steps, **options):
        if self.kind == "synchronous":
            with connect(path, table=False, **options) as router:
                return [step(router) for step in steps]

        async def main():
            async with aio.connect(path, table=False, **options) as router:
                found = [step(router) for step in steps]
                return [await one if inspect.isawaitable(one) else one for one in found]

        return asyncio.run(main())


@pytest.fixture(params=["synchronous", "asyncio"])
def client(request):
    return Client(request.param)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s"


def ping(router):
    return router.call("ping")


def test_what_was_in_flight_is_asked_again(client, path):
    with daemons(path, leaves, echoes):
        assert client.use(path, ping) == ["ping"]


def test_a_daemon_that_is_lost_again_and_again_is_given_up(client, path):
    with daemons(path, *[leaves] * retry.MOST_LOSSES), pytest.raises(DaemonUnreachable, match="closed the connection"):
        client.use(path, ping)


@pytest.mark.parametrize("method", sorted(retry.ONCE))
def test_what_changes_something_is_not_asked_again(client, path, method):
    with daemons(path, leaves, echoes):
        lost = f"it is not known whether {method} was done"

        def change(router):
            if client.kind == "synchronous":
                with pytest.raises(DaemonUnreachable, match=lost):
                    router.call(method)
                return ping(router)

            async def both():
                with pytest.raises(DaemonUnreachable, match=lost):
                    await router.call(method)
                return await ping(router)

            return both()

        assert client.use(path, change) == ["ping"]


def test_without_reconnecting_everything_fails_at_once(client, path):
    def twice(router):
        if client.kind == "synchronous":
            for match in ("closed the connection", "is closed; connect again"):
                with pytest.raises(DaemonUnreachable, match=match):
                    router.call("ping")
            return None

        async def both():
            for match in ("closed the connection", "is closed; connect again"):
                with pytest.raises(DaemonUnreachable, match=match):
                    await router.call("ping")

        return both()

    with daemons(path, leaves):
        client.use(path, twice, reconnect=0.0)


def test_work_that_a_daemon_hands_back_waits_for_the_next(client, path):
    with daemons(path, DRAINS, echoes):
        assert client.use(path, ping) == ["ping"]


def test_a_change_that_was_refused_is_not_kept_for_the_next(client, path):
    with daemons(path, DRAINS), pytest.raises(ShuttingDown):
        client.use(path, lambda router: router.call("policy.apply"))


@pytest.mark.parametrize("error", [BadRequest("no"), Overloaded("full", retry_after_seconds=0.1)])
def test_other_refusals_are_not_repeated(client, path, error):
    with daemons(path, refuses(error)), pytest.raises(type(error), match=error.message):
        client.use(path, ping)


def test_waiting_has_an_end_that_says_what_was_lost(client, path):
    def lost(router):
        path.unlink()
        return router.call("ping")

    with daemons(path, leaves):
        words = "start one with: routerd; waited 0.05 s after .* closed the connection"
        with pytest.raises(DaemonUnreachable, match=words):
            client.use(path, lost, reconnect=0.05)


def test_one_client_too_many_hears_the_daemons_own_words(client, path):
    full = LimitExceeded("3 clients are connected, which is the limit (max_connections)", limit=3)
    with daemons(path, turns_away(full)), pytest.raises(LimitExceeded, match="3 clients are connected"):
        client.use(path)


def test_a_daemon_that_does_not_greet_is_not_waited_for_long(client, path, monkeypatch):
    monkeypatch.setattr("routerd.client.core.LEAST_HELLO_SECONDS", 0.05)
    with daemons(path, is_silent), pytest.raises(DaemonUnreachable, match=r"did not answer hello within 0\.05 s"):
        client.use(path, timeout=0.0)


def test_a_daemon_that_leaves_while_it_greets_is_followed_by_the_next(client, path):
    with daemons(path, leaves, lambda peer: peer.request(), echoes):
        assert client.use(path, ping) == ["ping"]


def test_closing_ends_the_waiting_of_another_thread(path):
    waiting = threading.Event()
    caught = []

    def work(router):
        try:
            router.call("ping")
        except DaemonUnreachable as error:
            caught.append(error)

    with daemons(path, leaves):
        router = connect(path, table=False, reconnect=60.0)
        path.unlink()
        pauses = retry.pauses

        def noticed():
            waiting.set()
            return pauses()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(retry, "pauses", noticed)
            thread = threading.Thread(target=work, args=(router,))
            thread.start()
            assert waiting.wait(10.0)
            router.close()
            thread.join(10.0)
    assert "is closed; connect again" in caught[0].message


def test_closing_ends_the_waiting_of_another_task(path):
    async def main():
        router = await aio.connect(path, table=False, reconnect=60.0)
        path.unlink()
        asked = [asyncio.create_task(router.call("ping")) for _ in range(3)]
        async with asyncio.timeout(10.0):
            while router._renewing is None:
                await asyncio.sleep(0.001)
        assert router.is_open
        await router.close()
        assert not router.is_open
        return await asyncio.gather(*asked, return_exceptions=True)

    with daemons(path, leaves):
        errors = asyncio.run(main())
    assert all("is closed; connect again" in error.message for error in errors)


def test_many_tasks_share_one_new_connection(path):
    async def main():
        async with aio.connect(path, table=False) as router:
            return await asyncio.gather(*(router.call("ping") for _ in range(50)))

    with daemons(path, leaves, echoes):  # a third connection would be served by nobody
        assert asyncio.run(main()) == ["ping"] * 50


def test_answers_of_a_daemon_that_drains_are_still_taken(path):
    """One request is refused, another is still being worked on: the connection stays until it is answered."""

    def drains(peer):
        peer.greet()
        long, refused = peer.request(), peer.request()
        peer.answer(refused.id, error=ShuttingDown("the daemon is shutting down"))
        again.wait(10.0)
        peer.answer(long.id, "from the old one")
        assert peer.request() is None  # nothing is left to ask here

    def serves(peer):
        echoes(peer)

    again = threading.Event()

    async def main():
        async with aio.connect(path, table=False) as router:
            long = asyncio.create_task(router.call("long"))
            refused = asyncio.create_task(router.call("short"))
            async with asyncio.timeout(10.0):
                while router._renewing is None:  # it turns to the next daemon
                    await asyncio.sleep(0.001)
            again.set()
            return await asyncio.gather(long, refused)

    with daemons(path, drains, serves):
        assert asyncio.run(main()) == ["from the old one", "short"]


def test_cancelling_tells_the_daemon(path):
    heard = []

    def scene(peer):
        peer.greet()
        while (request := peer.request()) is not None:
            heard.append((request.id, request.method, bytes(request.params)))
            if request.method == "ping":
                peer.answer(request.id, "pong")

    async def main():
        async with aio.connect(path, table=False) as router:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.02):
                    await router.run("third.party", x=1.0)
            return await router.call("ping")

    with daemons(path, scene):
        assert asyncio.run(main()) == "pong"
    (run, _, params), (_, cancel, request), _ping = heard
    assert b"task_id" in params
    assert cancel == "cancel"
    assert request == b"\x81\xa7request" + bytes([run])
