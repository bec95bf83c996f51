"""Runs a program in a tree of unpacked packages, with nothing of the host's but its kernel and the work directory."""

import shlex

from measure import Failure

# The tree is bound read-only into an empty root, directory by directory: mount points can then be made, and nothing that
# runs there can change the tree. Mounts and processes end with the outer process.
ENTER = r"""
set -eu
tree=$1 work=$2
shift 2
new=$(mktemp -d "$work/run/root.XXXXXX")
mount --make-rprivate /
mount -t tmpfs -o mode=755 root "$new"
for entry in "$tree"/*; do
  name=${entry##*/}
  if [ -L "$entry" ]; then
    ln -s "$(readlink "$entry")" "$new/$name"
  elif [ -d "$entry" ]; then
    mkdir "$new/$name"
    case $name in proc | sys | dev | tmp | run | bench) continue ;; esac
    mount --bind "$entry" "$new/$name"
    mount -o remount,bind,ro "$new/$name"
  fi
done
mkdir -p "$new/proc" "$new/sys" "$new/dev" "$new/tmp" "$new/run" "$new/bench"
mount -t proc proc "$new/proc"
mount --rbind /sys "$new/sys"
mount --rbind /dev "$new/dev"
mount -t tmpfs -o mode=1777 tmp "$new/tmp"
mount -t tmpfs run "$new/run"
mount --bind "$work" "$new/bench"
if [ -d "$new/var/tmp" ]; then mount --bind "$work/run/tmp" "$new/var/tmp"; fi
cd "$new"
pivot_root . .
umount -l .
cd /bench
# Not exec: the shell is the first process of its namespace and collects what others leave behind.
env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/tmp LANG=C.UTF-8 "$@"
"""


class Tree:
    """A directory with a system in it."""

    def __init__(self, root, work):
        self.root, self.work = root, work
        if not (root / "usr").is_dir():
            raise Failure(f"{root} is no tree of packages; remove {work} and start again")

    def command(self, *words):
        """The command that runs `words` inside. The work directory is `/bench` there; there is no network."""
        isolated = ["unshare", "--mount", "--pid", "--net", "--uts", "--ipc", "--fork", "--kill-child", "--"]
        return [*isolated, "bash", "-c", ENTER, "enter", self.root, self.work, *words]

    def shell(self, script, *words):
        """`command` for a line of shell, with `words` as its arguments."""
        return self.command("sh", "-euc", script, "sh", *words)

    def inside(self, path):
        """The name inside of a path in the work directory."""
        return f"/bench/{path.relative_to(self.work)}"


def quoted(words):
    """Words for a shell."""
    return " ".join(shlex.quote(str(word)) for word in words)
