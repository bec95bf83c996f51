"""Boots images in QEMU without hardware virtualisation and watches the serial line."""

import glob
import os
import re
import select
import shutil
import subprocess
import time

from measure import Failure, run, say, start, stop

CONTROL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]|\r")
LOGIN = rb"\blogin: "


class Machine:
    """A virtual machine, the same for every image: 2 processors, 2 GiB, a virtio disk, UEFI, no network outside."""

    def __init__(self, tree, work):
        self.tree, self.work, self.log = tree, work, work / "log"
        self.run_directory = work / "run" / "machine"

    def boot(self, label, image, until, grow=None, medium=None, limit=600):
        """Boots `image`, which is not changed, until every pattern of `until` has come: `{name: pattern}`.

        Gives for each the seconds since QEMU was started, and the processor time spent until then:
        `{name: (wall, cpu)}`. The latter says more where others use the machine too."""
        shutil.rmtree(self.run_directory, ignore_errors=True)
        self.run_directory.mkdir(parents=True)
        disk, variables = self.run_directory / "disk.qcow2", self.run_directory / "vars.fd"
        shutil.copy(self.tree.root / "usr/share/OVMF/OVMF_VARS_4M.fd", variables)
        make = ["qemu-img", "create", "-f", "qcow2", "-F", "raw", "-b", self.tree.inside(image), self.tree.inside(disk)]
        run(self.tree.command(*make, *([grow] if grow else [])), self.log / f"boot-{label}-disk.log")
        code = "/usr/share/OVMF/OVMF_CODE_4M.fd"
        words = [
            "qemu-system-x86_64", "-machine", "q35,smm=off", "-accel", "tcg,thread=multi", "-cpu", "max",
            "-smp", "2", "-m", "2048", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
            "-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={code}",
            "-drive", f"if=pflash,unit=1,format=raw,file={self.tree.inside(variables)}",
            "-drive", f"if=none,id=disk0,format=qcow2,cache=unsafe,file={self.tree.inside(disk)}",
            "-device", "virtio-blk-pci,drive=disk0,bootindex=0",
            "-device", "virtio-rng-pci",
            "-nic", "user,model=virtio-net-pci,restrict=on",
            "-serial", "stdio",
        ]  # fmt: skip
        if medium:
            words += ["-drive", f"if=none,id=stick,format=raw,readonly=on,file={self.tree.inside(medium)}"]
            words += ["-device", "qemu-xhci", "-device", "usb-storage,drive=stick"]
        return self._watch(label, self.tree.command(*words), until, limit)

    def _watch(self, label, command, until, limit):
        log = self.log / f"boot-{label}.log"
        begin, text, found, heard = time.monotonic(), b"", {}, []
        process = start(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        try:
            while len(found) < len(until):
                left = begin + limit - time.monotonic()
                ready, _, _ = select.select([process.stdout], [], [], max(left, 0))
                chunk = os.read(process.stdout.fileno(), 65536) if ready else b""
                if not chunk:
                    why = "the machine ended" if ready else f"{limit} s passed"
                    lacking = ", ".join(name for name in until if name not in found)
                    tail = CONTROL.sub(b"", text)[-1500:].decode(errors="replace")
                    raise Failure(f"booting {label}: {why} without {lacking}; all it said is in {log}:\n{tail}")
                text += chunk
                heard.append((time.monotonic() - begin, chunk))
                plain = CONTROL.sub(b"", text)
                for name, pattern in until.items():
                    if name not in found and re.search(pattern, plain):
                        found[name] = wall, cpu = time.monotonic() - begin, processor_time(process.pid)
                        say(f"{label}: {name} after {wall:.1f} s, {cpu:.1f} s of processor time")
        finally:
            stop(process)
            log.write_text(timed(heard))
        return found


def timed(heard):
    """Lines of text, each with the seconds after which its end came."""
    lines, open_line, at = [], b"", 0.0
    for at, chunk in heard:
        *ended, open_line = (open_line + chunk).split(b"\n")
        lines += [(at, line) for line in ended]
    lines.append((at, open_line))
    return "".join(f"{at:8.2f} {CONTROL.sub(b'', line).decode(errors='replace')}\n" for at, line in lines)


def processor_time(group):
    """Seconds of processor time of the processes of a group that are still there."""
    ticks = 0
    for stat in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(stat) as file:
                fields = file.read().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it ended meanwhile
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def stick(tree, path, files):
    """A USB volume `INGOT` with these files: `{name: text}`."""
    source = path.with_suffix(".files")
    shutil.rmtree(source, ignore_errors=True)
    source.mkdir(parents=True)
    for name, text in files.items():
        (source / name).write_text(text)
    path.unlink(missing_ok=True)
    script = 'mkfs.vfat -C -n INGOT "$1" 16384; mcopy -i "$1" "$2"/* ::'
    run(tree.shell(script, tree.inside(path), tree.inside(source)), path.with_suffix(".log"))
