"""Who does the shards: this process, several processes, or a Ray cluster. The order in which they end is theirs.

In: a job and shards. Out: an iterator over what is done, in order of completion; nobody's output depends on that order.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import forkserver, resource_tracker
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from data_prep.cli import UserError
from data_prep.shards import Done, Job, Shard, process_shard

ROOT = Path(__file__).resolve().parent.parent
_stop: Any = None  # of a worker process: a shared byte, 1 when the driver is interrupted


def run_shards(engine: str, num_workers: int | None, job: Job, shards: Sequence[Shard]) -> Generator[Done, None, None]:
    """Do all shards; yields each as it is done. Stops its workers when it is closed or raises. None workers: all cores there are."""
    if engine == "ray" and shards:
        return over_ray(num_workers, job, shards)
    num_workers = num_workers or available_cores()
    if num_workers == 1 or len(shards) < 2:
        return (process_shard(job, shard) for shard in shards)
    return over_processes(min(num_workers, len(shards)), job, shards)


def available_cores() -> int:
    """The cores that this process may use, which on a shared machine or under Slurm are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def start_worker(stop: Any) -> None:
    """Prepare a worker to stop when it is told, and to go when its driver was killed."""
    global _stop
    _stop = stop
    driver = multiprocessing.parent_process()
    if driver is not None:
        threading.Thread(target=follow, args=(driver,), daemon=True).start()


def follow(driver: BaseProcess) -> None:
    """End this process when the driver has ended, however it did; an orphan would write beside the driver's successor."""
    driver.join()
    os._exit(1)


def start_forkserver() -> None:
    """Start the process that workers come from, with Ctrl-C held off: it is the driver's business, in theirs from birth."""
    resource_tracker.ensure_running()  # else started by the next line but one, which would let Ctrl-C in again
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def work(job: Job, shard: Shard) -> Done:
    """`process_shard` in a worker process, ready to stop between two papers."""
    return process_shard(job, shard, lambda: _stop.value != 0)


def over_processes(num_workers: int, job: Job, shards: Sequence[Shard]) -> Generator[Done, None, None]:
    """Processes of this machine. A worker that dies (killed for its memory, say) ends the run with a sentence."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    start_forkserver()
    stop = context.RawValue("b", 0)  # no Event: its lock would stay with a worker that is killed while it looks
    with ProcessPoolExecutor(num_workers, mp_context=context, initializer=start_worker, initargs=(stop,)) as pool:
        try:
            for future in as_completed([pool.submit(work, job, shard) for shard in shards]):
                yield future.result()
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps for want of memory; the same command goes on, and --workers "
                f"{max(num_workers // 2, 1)} needs half as much"
            ) from None
        finally:
            stop.value = 1
            pool.shutdown(wait=True, cancel_futures=True)


def over_ray(num_workers: int | None, job: Job, shards: Sequence[Shard]) -> Generator[Done, None, None]:
    """A running Ray cluster (RAY_ADDRESS, or one on this machine), or else a local one. Folders are shared by all nodes."""
    try:
        import ray
    except ImportError:
        raise UserError("--engine ray needs the package ray; pip install ray, or use --engine processes") from None
    if not ray.is_initialized():
        environment = {"env_vars": {"PYTHONPATH": str(ROOT)}}
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="error", runtime_env=environment)
    task: Any = ray.remote(max_retries=3)(process_shard)
    num_tasks = num_workers or int(ray.cluster_resources().get("CPU", 1))
    waiting = iter(shards)
    running: list[Any] = []
    try:
        while True:
            with contextlib.suppress(StopIteration):
                while len(running) < num_tasks:
                    running.append(task.remote(job, next(waiting)))
            if not running:
                return
            ready, running = ray.wait(running)
            yield ray.get(ready[0])
    except ray.exceptions.RayTaskError as error:
        raise error.cause from None
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
