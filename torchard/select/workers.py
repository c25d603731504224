"""Run one job per model in other processes, here or on a Ray cluster; one that dies takes no other along."""

import os
import pickle
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any, Literal

import torch

from torchard.core.errors import MissingExtraError, UsageError

Engine = Literal["local", "ray"]
Job = Callable[[Any], Any]


def run_jobs(
    job: Job, inputs: Mapping[str, Any], *, workers: int, engine: Engine = "local"
) -> Iterator[tuple[str, Any]]:
    """Yield name and result of ``job`` for each of ``inputs``, as they are done, from ``workers`` processes.

    ``job`` is a function at the top of a module and returns its own failures as results. A process that dies
    (killed, out of memory) yields a :class:`RuntimeError` in place of a result, for its own input only.
    ``engine="ray"`` runs on the Ray cluster this program is connected to, else on a Ray instance started for
    the call, on this machine's loopback alone, without dashboard and usage statistics, and stopped after it.

    Raises:
        UsageError: if ``workers`` is below 1, or an input cannot be sent to another process.
        MissingExtraError: if Ray is wanted and not installed.
    """
    if workers < 1:
        raise UsageError(f"`workers={workers}` must be at least 1.")
    payloads = {name: _packed(name, job, value) for name, value in inputs.items()}
    run = _on_ray if engine == "ray" else _locally
    for name, result in run(payloads, workers):
        yield name, pickle.loads(result) if isinstance(result, bytes) else result


def do(payload: bytes, threads: int) -> bytes:
    """Run one packed job with so many threads and return its packed result; what a worker executes."""
    torch.set_num_threads(threads)
    job, value = pickle.loads(payload)
    return pickle.dumps(job(value))


Payloads = Mapping[str, bytes]
Results = Iterator[tuple[str, "bytes | Exception"]]


def _packed(name: str, job: Job, value: Any) -> bytes:
    # Packed here by plain pickle, since torch would else move the user's weights into shared memory.
    try:
        return pickle.dumps((job, value))
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise UsageError(
            f"{name} cannot be sent to another process ({error}). Name models of the hub, or leave "
            "`workers` out."
        ) from None


def _locally(payloads: Payloads, workers: int) -> Results:
    """All in one pool; if a process dies, what is left runs in a pool each, so that the guilty one shows."""
    left = dict(payloads)
    for name, result in _pool(left, min(workers, len(left))):
        if not isinstance(result, BrokenProcessPool):
            del left[name]
            yield name, result
    for name, payload in left.items():
        for _, result in _pool({name: payload}, 1):
            died = isinstance(result, BrokenProcessPool)
            yield name, RuntimeError("its process died; out of memory?") if died else result


def _pool(payloads: Payloads, workers: int) -> Results:
    if not payloads:
        return
    threads = max(1, torch.get_num_threads() // workers)
    # Spawned, not forked: a fork of a process in which torch has started threads may hang.
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        names: dict[Future[bytes], str] = {}
        for name, payload in payloads.items():
            names[pool.submit(do, payload, threads)] = name
        waiting = set(names)
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                error = future.exception()
                yield names[future], future.result() if error is None else _as_exception(error)


def _as_exception(error: BaseException) -> Exception:
    return error if isinstance(error, Exception) else RuntimeError(repr(error))


def _on_ray(payloads: Payloads, workers: int) -> Results:
    ray = _import_ray()
    if ray.is_initialized():
        yield from _ray_results(ray, payloads)
        return
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        try:
            _start_ray(ray, workers, folder)
            yield from _ray_results(ray, payloads)
        finally:
            ray.shutdown()


def _ray_results(ray: Any, payloads: Payloads) -> Results:
    remote = ray.remote(num_cpus=1, max_retries=0)(do)
    names = {remote.remote(payload, 1): name for name, payload in payloads.items()}
    waiting = list(names)
    while waiting:
        (first, *_), waiting = ray.wait(waiting)
        try:
            yield names[first], ray.get(first)
        except ray.exceptions.RayError as error:
            yield names[first], RuntimeError(f"its Ray worker failed: {str(error).strip().splitlines()[0]}")


def _start_ray(ray: Any, workers: int, folder: str) -> None:
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # Ray replaces 127.0.0.1 by an address that others can reach, unless it believes that there is no cluster;
    # needed until ray.init(_node_ip_address="127.0.0.1") is taken at its word.
    constants = ray._private.ray_constants
    clusters, constants.ENABLE_RAY_CLUSTER = constants.ENABLE_RAY_CLUSTER, False
    try:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level="ERROR",
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
    finally:
        constants.ENABLE_RAY_CLUSTER = clusters


def _import_ray() -> Any:
    try:
        import ray
    except ImportError:
        raise MissingExtraError(
            "ray is not installed. Install it with: pip install 'torchard[ray]'"
        ) from None
    return ray
