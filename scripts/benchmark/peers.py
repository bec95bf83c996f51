"""The other builders: mkosi and mmdebstrap, run in a tree of their own on a local archive of the same packages."""

import json
import os
import shutil
import tarfile

from measure import Failure, run, say

# The same console as on ingot's images: what is printed there costs time in a translated machine.
KERNEL = ["console=tty0", "console=ttyS0,115200n8", "quiet", "loglevel=4", "systemd.show_status=0"]

MKOSI_CONF = """\
[Distribution]
Distribution=debian
Release={release}
LocalMirror=file:///bench/archive

[Output]
Format=disk
ImageId=peer
OutputDirectory=/bench/run/mkosi-out
ManifestFormat=json
SplitArtifacts=uki

[Build]
CacheDirectory=/bench/mkosi/cache
PackageCacheDirectory=/bench/mkosi/packages
WorkspaceDirectory=/bench/run/tmp
Incremental=no
WithNetwork=no

[Content]
WithDocs=no
Bootable=yes
Bootloader=systemd-boot
UnifiedKernelImages=yes
Hostname=peer
KernelCommandLine={cmdline}
Packages=
{packages}

[Validation]
SecureBoot=no
"""

# mkosi's own default. On a smaller one systemd-repart makes a FAT32 with too few clusters, which firmware refuses.
ESP_MIB = 512

REPART = {
    "00-esp.conf": "[Partition]\nType=esp\nFormat=vfat\nCopyFiles=/boot:/\nCopyFiles=/efi:/\n"
    "SizeMinBytes={esp}M\nSizeMaxBytes={esp}M\n",
    "10-root.conf": "[Partition]\nType=root\nFormat=erofs\nCopyFiles=/\nMinimize=best\nVerity=data\n"
    "VerityMatchKey=root\nCompression={algorithm}\n{level}",
    "20-root-verity.conf": "[Partition]\nType=root-verity\nVerity=hash\nVerityMatchKey=root\nMinimize=best\n",
}

NETWORK = "[Match]\nName=en* eth*\n\n[Network]\nDHCP=yes\n"


class Peers:
    """mkosi and mmdebstrap, given the packages that ingot installs."""

    def __init__(self, ingot, tree, work):
        self.ingot, self.tree, self.work, self.log = ingot, tree, work, work / "log"
        self.out = work / "run" / "mkosi-out"
        self.tarball = work / "run" / "mmdebstrap.tar"

    def versions(self):
        """`{program: version}`"""
        locked = {p["name"]: p["version"] for p in self.ingot.lock["package"]}
        return {name: locked[name] for name in ("mkosi", "mmdebstrap")}

    def make_archive(self, provided):
        """An archive in Debian's layout of links into ingot's store, and the package that stands for the initrd's maker."""
        say("making a local archive of ingot's own store")
        archive = self.work / "archive"
        shutil.rmtree(archive, ignore_errors=True)
        pool = archive / "pool"
        pool.mkdir(parents=True)
        for name, path in self.ingot.debs().items():
            os.link(path, pool / name)
        shutil.copy(provided, pool / "ingot-provided.deb")
        script = (
            "cd /bench/archive; index=dists/$1/main/binary-amd64; mkdir -p $index;"
            " apt-ftparchive packages pool > $index/Packages;"
            " apt-ftparchive -o APT::FTPArchive::Release::Codename=$1 -o APT::FTPArchive::Release::Suite=$1"
            " -o APT::FTPArchive::Release::Components=main -o APT::FTPArchive::Release::Architectures=amd64"
            " release dists/$1 > Release.new; mv Release.new dists/$1/Release"
        )
        run(self.tree.shell(script, self.release()), self.log / "archive.log")

    def release(self):
        """`trixie`"""
        return self.ingot.codename

    def wanted(self):
        """The packages as apt takes them: `name=version`."""
        return [f"{name}={version}" for (name, _), version in sorted(self.ingot.packages().items())]

    def make_mkosi(self, manifest):
        """The configuration of an image like ingot's: erofs with the same compression, verity, UKI, systemd-boot."""
        directory = self.work / "mkosi"
        shutil.rmtree(directory, ignore_errors=True)
        (directory / "mkosi.repart").mkdir(parents=True)
        for name in ("cache", "packages"):
            (directory / name).mkdir()
        network = directory / "mkosi.extra/usr/lib/systemd/network/80-dhcp.network"
        network.parent.mkdir(parents=True)
        network.write_text(NETWORK)
        # systemd-boot and its stub come from the image here; ingot takes them from its tools.
        packages = [*self.wanted(), "ingot-provided", "systemd-boot-efi"]
        # The root is read-only and nothing is configured: what wants to write goes to memory, and nobody is asked.
        cmdline = [*KERNEL, "systemd.volatile=overlay", "systemd.firstboot=off"]
        conf = MKOSI_CONF.format(
            release=self.release(), cmdline=" ".join(cmdline), packages="\n".join(f"    {p}" for p in packages)
        )
        (directory / "mkosi.conf").write_text(conf)
        algorithm, _, level = manifest["root"]["compression"].partition(",")
        level = f"CompressionLevel={level}\n" if level else ""
        for name, text in REPART.items():
            text = text.format(esp=ESP_MIB, algorithm=algorithm, level=level)
            (directory / "mkosi.repart" / name).write_text(text)

    def mkosi(self, label):
        """Builds the image."""
        shutil.rmtree(self.out, ignore_errors=True)
        self.out.mkdir(parents=True)
        command = self.tree.command("mkosi", "--directory", "/bench/mkosi", "--force", "build")
        return run(command, self.log / f"mkosi-{label}.log")

    def mkosi_image(self):
        """The disk image and the UKI."""
        found = [self.out / "peer.raw", self.out / "peer.efi"]
        for path in found:
            if not path.is_file():
                names = ", ".join(sorted(p.name for p in self.out.iterdir()))
                raise Failure(f"mkosi made no {path.name}, only {names}; see {self.log}")
        return found

    def mmdebstrap(self, label, exclude, include):
        """Builds the root's tarball."""
        self.tarball.unlink(missing_ok=True)
        options = [f"--dpkgopt=path-exclude={glob}" for glob in exclude]
        options += [f"--dpkgopt=path-include={glob}" for glob in include]
        hooks = "/usr/share/mmdebstrap/hooks/file-mirror-automount"
        command = self.tree.command(
            "env", "TMPDIR=/bench/run/tmp", "mmdebstrap", "--mode=root", "--variant=essential", "--format=tar",
            f"--hook-dir={hooks}", f"--include={','.join([*self.wanted(), 'ingot-provided'])}", *options,
            self.release(), self.tree.inside(self.tarball),
            f"deb [trusted=yes] file:///bench/archive {self.release()} main",
        )  # fmt: skip
        return run(command, self.log / f"mmdebstrap-{label}.log")

    def check_mkosi(self):
        """mkosi's image has exactly the locked packages, and the few that it cannot do without."""
        packages = json.loads((self.out / "peer.manifest").read_text())["packages"]
        found = {(p["name"], p["architecture"]): p["version"] for p in packages if p["type"] == "deb"}
        self._check("mkosi", found, {"systemd-boot-efi"})

    def check_mmdebstrap(self):
        """So has mmdebstrap's tarball."""
        with tarfile.open(self.tarball) as tar:
            text = tar.extractfile("./var/lib/dpkg/status").read().decode()
        found = {}
        for paragraph in text.strip().split("\n\n"):
            fields = dict(line.split(": ", 1) for line in paragraph.splitlines() if line[0] != " " and ": " in line)
            if fields["Status"] != "install ok installed":
                raise Failure(f"mmdebstrap left {fields['Package']} as `{fields['Status']}`")
            found[fields["Package"], fields["Architecture"]] = fields["Version"]
        self._check("mmdebstrap", found, set())

    def _check(self, who, found, allowed):
        wanted = self.ingot.packages()
        missing = sorted(f"{n}={v}" for (n, a), v in wanted.items() if found.get((n, a)) != v)
        allowed = allowed | {"ingot-provided"}
        more = sorted(f"{n}={v}" for (n, a), v in found.items() if (n, a) not in wanted and n not in allowed)
        if missing or more:
            lack, extra = ", ".join(missing) or "none", ", ".join(more) or "none"
            raise Failure(f"{who} did not install the locked set: missing {lack}; more {extra}")
        say(f"{who} installed the same {len(wanted)} packages in the same versions")
