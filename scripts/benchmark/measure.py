"""Runs a command and tells what it cost: wall time, processor time, peak memory, and when each line of progress came."""

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field


class Failure(Exception):
    """Something did not work; the text says what, where, and what to do."""


@dataclass
class Cost:
    """What a command took. Times are seconds, memory is MiB.

    `memory` is the resident size of the largest single process, as GNU time's "Maximum resident set size" has it.
    """

    wall: float
    cpu: float
    memory: float
    progress: list = field(default_factory=list)  # (seconds since start, line)

    def steps(self):
        """Seconds that passed from each line of progress to the next, in order: `[[line, seconds], …]`."""
        ends = [at for at, _ in self.progress[1:]] + [self.wall]
        return [[line, round(end - at, 2)] for (at, line), end in zip(self.progress, ends)]


def say(text):
    """One line of progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)


def start(command, **options):
    """Starts a command in a session of its own, so that `stop` reaches all of it."""
    try:
        return subprocess.Popen([str(word) for word in command], start_new_session=True, **options)
    except OSError as error:
        raise Failure(f"cannot start {command[0]}: {error.strerror}") from error


def stop(process):
    """Kills a command that `start` started, with everything in its session, and waits for its end."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def run(command, log, environment=None, stdout=None):
    """Runs a command and gives its `Cost`. What it prints goes to `log`; what it prints to standard output goes to the
    file `stdout` instead where that is given."""
    os.sync()  # what others wrote before is not for this command to wait for
    with open(log, "wb") as sink, open(stdout or os.devnull, "wb") as answer:
        begin = time.monotonic()
        process = start(
            command,
            stdin=subprocess.DEVNULL,
            stdout=answer if stdout else subprocess.PIPE,
            stderr=subprocess.PIPE if stdout else subprocess.STDOUT,
            env={**os.environ, **(environment or {})},
        )
        lines = []
        pipe = process.stderr if stdout else process.stdout

        def read():
            for line in pipe:
                lines.append((time.monotonic() - begin, line.decode(errors="replace").rstrip()))
                sink.write(line)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.monotonic() - begin
            process.returncode = os.waitstatus_to_exitcode(status)
        except BaseException:
            stop(process)
            raise
        finally:
            reader.join()
    if process.returncode != 0:
        tail = "\n".join("    " + line for _, line in lines[-15:])
        name = " ".join(str(word) for word in command if "\n" not in str(word))
        name = name if len(name) < 300 else name[:300] + " …"
        raise Failure(f"status {process.returncode} from: {name}\n{tail}\n  all it said is in {log}")
    return Cost(wall, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, lines)
