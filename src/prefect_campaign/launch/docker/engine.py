"""One Docker engine: every request that we make of it, beside the event loop, with errors that say what to do next."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from prefect_campaign.launch.docker.container import TOKEN
from prefect_campaign.launch.docker.errors import NotThere, translated
from prefect_campaign.launch.docker.settings import Engine, engine_of
from prefect_campaign.model.errors import CampaignError, Refused, Transient

T = TypeVar("T")

_THREADS = 8
_FACTS_SECONDS = 60.0
_LOG_LINES = 10_000
_PULL_TROUBLE = ("timeout", "no such host", "connection refused", "tls", "temporary", "network is unreachable", "eof")


class DockerEngine:
    """Talks to one engine. Its methods block: call them by `beside`. Each raises `Transient` if no engine answers.

    Args:
        client: makes a client of the Docker SDK.
        where: its address, for people.
    """

    def __init__(self, client: Callable[[], Any], where: str) -> None:
        self.where = where
        self.lacks: dict[str, str] = {}
        """Limits that it turned out not to have, and why, for people."""
        self._new_client = client
        self._client: Any = None
        self._making = threading.Lock()
        self._facts: tuple[float, Engine] | None = None
        self._busy = threading.BoundedSemaphore(_THREADS)
        self._pulls: dict[str, Future[None]] = {}

    async def beside(self, call: Callable[..., T], *args: Any, **named: Any) -> T:
        """Run a blocking call in a thread that nobody waits for at the end: a stuck engine blocks nothing else."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()

        def tell(result: T | None, error: Exception | None) -> None:
            if not done.done():
                done.set_exception(error) if error else done.set_result(result)  # type: ignore[arg-type]

        def run() -> None:
            result, error = None, None
            with self._busy:
                try:
                    result = call(*args, **named)
                except Exception as found:
                    error = found
            with suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(tell, result, error)

        threading.Thread(target=run, name="docker", daemon=True).start()
        return await done

    def close(self) -> None:
        """Let go of the connections; calls under way come to their own end."""
        with suppress(Exception):
            if self._client is not None:
                self._client.close()
        self._client = None

    # -- what there is ------------------------------------------------------------------------------------------

    def engine(self) -> Engine:
        """What it says of itself, at most a minute old.

        Raises:
            Transient: it is not there.
            Refused: it is one that attempts cannot run on.
        """
        if self._facts is None or time.monotonic() - self._facts[0] > _FACTS_SECONDS:
            with self._asking("its state"):
                engine = engine_of(self._api().info())
            if engine.system != "linux":
                raise Refused(
                    f"the Docker engine at {self.where} runs {engine.system} containers; only Linux ones work"
                )
            self._facts = time.monotonic(), engine
        return self._facts[1]

    def ping(self) -> None:
        """See that it answers.

        Raises:
            Transient: it does not.
        """
        with self._asking("a sign of life"):
            self._api().ping()

    def ours(self, labels: Sequence[str] = (TOKEN,)) -> list[dict[str, Any]]:
        """All containers with these labels (``name`` or ``name=value``), running or not, in one request."""
        with self._asking("its containers"):
            found = self._api().containers(all=True, filters={"label": list(labels)})
            return [one for one in found if isinstance(one, dict) and "Id" in one]

    def inspect(self, container: str) -> dict[str, Any] | None:
        """All about a container, by id or name; None if the engine says that there is none."""
        try:
            with self._asking(f"container {container}"):
                return dict(self._api().inspect_container(container))
        except NotThere:
            return None

    def image(self, name: str) -> dict[str, Any] | None:
        """All about an image; None if the engine does not have it."""
        try:
            with self._asking(f"image {name}"):
                return dict(self._api().inspect_image(name))
        except NotThere:
            return None

    def logs(self, container: str, most: int) -> bytes:
        """The end of what the container itself said, at most so many bytes."""
        with self._asking(f"logs of {container}"):
            said: bytes = self._api().logs(container, stdout=True, stderr=True, tail=_LOG_LINES)
        return said[-most:]

    # -- what is done -------------------------------------------------------------------------------------------

    def pull(self, name: str) -> None:
        """Fetch an image from its registry.

        Raises:
            Transient: the registry cannot be reached.
            Refused: there is no such image, or it is not for us.
        """
        try:
            with self._asking(f"image {name}"):
                self._client_now().images.pull(name, all_tags=False)
        except CampaignError as error:
            text = f"image {name!r} is not on this Docker engine and cannot be pulled ({error}); "
            text += f"`docker pull {name}`, build or import it, or correct `image` of the block"
            passing = any(word in str(error).lower() for word in _PULL_TROUBLE)
            raise (Transient if passing else Refused)(text) from error

    def fetch(self, name: str) -> None:
        """Pull an image unless it is there: once, for all that want it at this moment.

        Raises:
            Transient, Refused: see `pull`; all who waited for it are told the same.
        """
        with self._making:
            under_way = self._pulls.get(name)
            pull = self._pulls.setdefault(name, Future())
        if under_way is not None:
            return under_way.result()
        try:
            if self.image(name) is None:  # another may just have been done with it
                self.pull(name)
            pull.set_result(None)
        except BaseException as error:
            pull.set_exception(error)
            raise
        finally:
            with self._making:
                del self._pulls[name]

    def create(self, name: str, config: Mapping[str, Any]) -> str:
        """Make a container that does not run yet; its id.

        Raises:
            Conflict: there is one of this name.
            Refused: it can never be made so.
            Unknown: it may have been made.
        """
        with self._asking(name, acting=True):
            return str(self._api().create_container_from_config(dict(config), name=name)["Id"])

    def start(self, container: str, name: str) -> None:
        """Start it; no harm if it runs already.

        Raises:
            NotThere: somebody removed it.
            Transient, Refused: it was not started.
            Unknown: it may have been started.
        """
        with self._asking(name, acting=True):
            self._api().start(container)

    def kill(self, container: str, number: str) -> None:
        """Send a signal to its first process; no harm if it is over or gone."""
        with suppress(CampaignError), self._asking(container):
            self._api().kill(container, signal=number)

    def run_inside(self, container: str, argv: Sequence[str]) -> None:
        """Run a short command inside, as the container's user.

        Raises:
            CampaignError: it could not be run: it may be over, paused, or without the program.
        """
        with self._asking(container):
            # With its outputs, though it says nothing: without them the answer comes before its end.
            made = self._api().exec_create(container, list(argv))
            self._api().exec_start(made["Id"])

    def wait(self, container: str, seconds: float) -> bool:
        """Whether it is over, or gone, within the time.

        Raises:
            Transient: the engine is not there.
        """
        deadline = time.monotonic() + seconds
        while True:
            seen = self.inspect(container)
            if seen is None or not is_alive(seen["State"]):
                return True
            if time.monotonic() >= deadline:
                return False
            time.sleep(min(0.05, max(0.0, deadline - time.monotonic())))

    def remove(self, container: str, *, force: bool = False) -> bool:
        """Remove a container that does not run, with its anonymous volumes; whether it is gone.

        Args:
            container: its id.
            force: also one that runs.
        """
        try:
            with self._asking(container):
                self._api().remove_container(container, v=True, force=force)
        except NotThere:
            return True
        except CampaignError:
            return False
        return True

    def events(self, since: float) -> Any:
        """The stream of ends of our containers, by a connection of its own; its `close` ends it from any thread."""
        with self._asking("its events"):
            filters = {"type": "container", "event": ["die", "destroy"], "label": [TOKEN]}
            return self._new_client().api.events(since=int(since), decode=True, filters=filters)

    # -- the connection -----------------------------------------------------------------------------------------

    def _api(self) -> Any:
        return self._client_now().api

    def _client_now(self) -> Any:
        with self._making:
            if self._client is None:
                self._client = self._new_client()
            return self._client

    @contextmanager
    def _asking(self, doing: str, *, acting: bool = False) -> Iterator[None]:
        try:
            yield
        except CampaignError:
            raise
        except Exception as error:
            from docker.errors import APIError

            if not isinstance(error, APIError):
                self._facts = None  # another engine may answer the next time
            raise translated(error, self.where, doing, acting=acting and self._client is not None) from error


def is_alive(state: Mapping[str, Any]) -> bool:
    """Whether a container's state, by its inspection, is one in which its processes may live."""
    return bool(state.get("Running") or state.get("Paused") or state.get("Restarting"))
