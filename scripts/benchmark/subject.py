"""ingot itself: the lock, the warm store, and the builds that are measured."""

import json
import os
import re
import shutil
import tomllib

from measure import Failure, run, say

ROLE = "quickstart/worker"
PEERS = "bench/peers"

# What the peers need, from the same archive and as exactly locked as everything else. The second part is what
# mkosi puts into the initrd that it makes by default, the third boots the images.
PEERS_PROFILE = """\
description = "mkosi and mmdebstrap with what they need, and a machine to boot images in"

[packages]
include = [
  "apt-utils", "debian-archive-keyring", "dpkg-dev", "mkosi", "mmdebstrap", "mtools", "dosfstools",
  "systemd-boot", "systemd-repart", "systemd-ukify",
  "bash", "btrfs-progs", "dmsetup", "dosfstools", "e2fsprogs", "erofs-utils", "kmod", "less", "libcryptsetup12",
  "libfido2-1", "libtss2-rc0t64", "libtss2-tcti-device0t64", "lvm2", "p11-kit", "systemd-cryptsetup", "udev",
  "ovmf", "qemu-system-x86", "qemu-utils",
]
"""


class Ingot:
    """The command, working on a copy of the profiles with a store of its own."""

    def __init__(self, program, node_programs, base, repository, work):
        self.program, self.base, self.work = program, base, work
        self.node_programs = node_programs
        self.warm, self.cold = work / "warm", work / "run" / "cold"
        self.site, self.lock_file, self.log = work / "site", work / "ingot.lock", work / "log"
        shutil.rmtree(self.site, ignore_errors=True)
        for name in ("profiles", "overlays"):
            shutil.copytree(repository / name, self.site / name, symlinks=True)
        peers = self.site / "profiles" / f"{PEERS}.toml"
        peers.parent.mkdir()
        peers.write_text(PEERS_PROFILE)
        self.changing = self.site / "overlays/node/etc/sysctl.d/90-bench.conf"
        self.changing.parent.mkdir(parents=True, exist_ok=True)
        self.change(0)

    def command(self, cache, *words):
        """The command line of a sub-command."""
        name, *rest = words
        shared = ["--profiles", self.site / "profiles", "--lock-file", self.lock_file, "--cache", cache]
        return [self.program, name, *rest, "--base", self.base, *shared]

    def build_command(self, cache, out, role, *more):
        """The command line of a build."""
        node = ["--node-programs", self.node_programs] if self.node_programs else []
        return self.command(cache, "build", role, "--out", out, "--json", *node, *more)

    def prepare(self):
        """Locks, downloads, and builds once what is measured later and the tree with the peers."""
        say(f"locking {ROLE} and the peers on {self.base}")
        run(self.command(self.warm, "lock", ROLE, PEERS), self.log / "lock.log")
        for role in (ROLE, PEERS):
            say(f"downloading and building {role} once, untimed")
            self.build(self.warm, self.work / "warm-out", role, "prepare")
        for kind in ("roots", "kernels"):  # large, one for each state of the profiles, and not needed again
            shutil.rmtree(self.warm / kind, ignore_errors=True)
        self.lock = tomllib.loads(self.lock_file.read_text())
        with open(self.site / f"profiles/base/{self.base}.toml", "rb") as file:
            self.codename = tomllib.load(file)["base"]["codename"]

    def build(self, cache, out, role, label, *more):
        """Builds a role; gives the cost and the manifest."""
        name = role.replace("/", "-")
        answer = self.log / f"ingot-{label}-{name}.json"
        cost = run(self.build_command(cache, out, role, *more), self.log / f"ingot-{label}-{name}.log", stdout=answer)
        built = json.loads(answer.read_text())[0]
        with open(built["manifest"]) as file:
            return cost, built, json.load(file)

    def tree(self, role, step, kind):
        """The directory of the cache that holds the result of one step of a build."""
        answer = self.log / "plan.json"
        out = self.work / "warm-out"
        run(self.build_command(self.warm, out, role, "--plan"), self.log / "plan.log", stdout=answer)
        steps = json.loads(answer.read_text())[0]["steps"]
        key = next(s["key"] for s in steps if s["name"] == step)
        return self.warm / kind / key

    def make_cold(self):
        """A cache that has the downloads and the tools, and no result of any step."""
        shutil.rmtree(self.cold, ignore_errors=True)
        for part in ("store/objects", "store/releases", "tools"):
            source, target = self.warm / part, self.cold / part
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copytree(source, target, symlinks=True, copy_function=os.link)

    def change(self, count):
        """Changes one file of an overlay: each count gives a content of its own."""
        self.changing.write_text(f"# change {count}\nnet.core.somaxconn = {4096 + count}\n")

    def packages(self):
        """What the role installs: `{(name, architecture): version}`."""
        return {(name, architecture): version for name, version, architecture, _ in self._set(ROLE)}

    def debs(self):
        """Every package of every set by file name, with its place in the store."""
        by_identity = {(p["name"], p["version"], p["architecture"]): p for p in self.lock["package"]}
        found = {}
        for role in (ROLE, PEERS):
            for name, version, architecture, _ in self._set(role):
                digest = by_identity[name, version, architecture]["sha256"]
                plain = version.replace(":", "%3a")
                path = self.warm / "store/objects/sha256" / digest[:2] / digest
                if not path.is_file():
                    raise Failure(f"{path} is not there, but the lock has it; remove {self.work} and start again")
                found[f"{name}_{plain}_{architecture}.deb"] = path
        return found

    def _set(self, role):
        wanted = f"{role}@{self.base}"
        for locked in self.lock["set"]:
            if locked["name"] == wanted:
                return [re.fullmatch(r"([^=]+)=([^@]+):([^:@]+)@(.+)", entry).groups() for entry in locked["packages"]]
        raise Failure(f"{self.lock_file} has no set {wanted}")
