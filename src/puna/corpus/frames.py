"""The one place where work is spread: passes over parts, and what has to be asked of all parts at once, in Daft.

Comes in: a job and the names of parts, or Parquet files of narrow rows. Goes out: files that the job wrote, or Arrow tables in
a fixed order. Must never happen: an answer that depends on the order in which threads or workers finished.

One definition runs on this machine's cores, or on the Ray cluster that the recipe or PUNA_RAY_ADDRESS names. The run's
folder must then be on storage that its workers see.
"""

import errno
import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from types import ModuleType

from puna.errors import PunaError
from puna.progress import QUIET, Progress

RAY_ADDRESS = "PUNA_RAY_ADDRESS"
_TICK = 0.5  # seconds between looks at what is finished


# Work on one part: a value that can be sent to another process. It writes its result itself, the same bytes when called twice.
Job = Callable[[str], None]


@cache
def engine(ray: str | None = None) -> ModuleType:
    """Daft, its telemetry off, on this machine or on the Ray cluster at `ray`.

    Raises PunaError where the address is given and Ray is not installed or not reached.
    """
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("DAFT_ANALYTICS_ENABLED", "0")
    os.environ.setdefault("DAFT_PROGRESS_BAR", "0")
    os.environ.setdefault("DAFT_SHOW_QUERY_ID", "0")
    import daft  # here, so that importing the corpus stays light and telemetry is off before the first byte of it

    if address := ray or os.environ.get(RAY_ADDRESS):
        try:
            daft.set_runner_ray(address=address)
        except (ImportError, ConnectionError) as error:
            raise PunaError(f"no Ray cluster ({error})", where=address,
                            mend="pip install 'ray>=2.52', start the cluster, or leave corpus.scale.ray out") from error  # fmt: skip
    return daft


def run_parts(
    job: Job,
    parts: Sequence[str],
    *,
    title: str,
    workers: int,
    ray: str | None = None,
    apart: bool = True,
    finished: Callable[[], int] | None = None,
    progress: Progress = QUIET,
) -> None:
    """Call `job` once for each part, `workers` at a time, in processes of their own where there is more than one part.

    Without `apart`, in this process: what is done within a second does not repay the start of another.
    `finished` counts what is done, for the progress. A PunaError of a job is raised here; the other parts' results stay.
    """
    if not parts:
        return
    daft = engine(ray)
    here = not ray and (not apart or len(parts) == 1)

    # A number of workers always means processes, even one.
    spread = {} if here else {"max_concurrency": max(1, min(workers, len(parts))), "use_process": True}

    @daft.cls(**spread)
    class Worker:
        def __init__(self, job: Job) -> None:
            self.job = job

        @daft.method.batch(return_dtype=daft.DataType.string(), batch_size=1)
        def run(self, part):  # type: ignore[no-untyped-def]  # Daft reads annotations as its own types
            return [_told(self.job, name) for name in part.to_pylist()]

    frame = daft.from_pydict({"part": list(parts)})
    if ray or os.environ.get(RAY_ADDRESS):
        frame = frame.repartition(len(parts), "part")
    progress.start(title, total=len(parts), unit="parts")
    with _watched(finished, len(parts), progress):
        answers = frame.select(Worker(job).run(daft.col("part")).alias("told")).to_pydict()["told"]
    progress.finish()
    for answer in sorted(answer for answer in answers if answer):
        raise PunaError(**json.loads(answer))


def _told(job: Job, part: str) -> str:
    # The user's mistake travels as text: an exception loses its fields on the way between processes.
    try:
        job(part)
    except PunaError as error:
        return json.dumps({"what": error.what, "where": error.where, "mend": error.mend})
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        return json.dumps({"what": "the disk is full", "where": part, "mend": "free some space and run it again"})
    return ""


@contextmanager
def _watched(finished: Callable[[], int] | None, total: int, progress: Progress) -> Iterator[None]:
    if finished is None:
        yield
        return
    over = threading.Event()
    before = finished()

    def watch() -> None:
        while not over.wait(_TICK):
            progress.update(min(total, finished() - before))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
        progress.update(total)
