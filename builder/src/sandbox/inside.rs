//! The two instances of ourselves that make a sandbox: see the module above.

use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{CWD, OFlags};
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
use rustix::process::Signal;
use rustix::thread::{CapabilitySet, CapabilitySets, UnshareFlags};

use super::{INIT_COMMAND, Mount, Spec, sys};

/// Exit status of both instances where the sandbox itself could not be made.
pub const SETUP_FAILED: i32 = 125;

/// Capabilities that unpacking and configuring packages takes; everything else is dropped, above all
/// what would let a maintainer script change the host's kernel (`SYS_ADMIN`, `SYS_MODULE`, `MKNOD`).
const KEPT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::DAC_READ_SEARCH)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::AUDIT_WRITE);

/// Device nodes that programs expect; bound from the host, since a user namespace cannot make them.
const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// The first instance: leaves the host's namespaces, starts the second and hands on how it ended.
///
/// `arguments` are the [`Spec`] as JSON, the program and its arguments.
pub fn enter(arguments: &[OsString]) -> i32 {
    match try_enter(arguments) {
        Ok(status) => status,
        Err(error) => report("cannot make the sandbox", &error),
    }
}

/// The second instance, process 1 of the new namespaces: makes the mounts and runs the program.
pub fn initialise(arguments: &[OsString]) -> i32 {
    match try_initialise(arguments) {
        Ok(status) => status,
        Err(error) => report("cannot prepare the sandbox", &error),
    }
}

/// Gives this process a mount namespace of its own: what a build mounts is seen by nobody else, and is gone with it.
///
/// The mode of every directory that is made from here on is what the code says: a user's umask must not show in an image.
pub fn private_mounts() -> io::Result<()> {
    fixed_umask();
    in_context("the kernel refuses a mount namespace (are we root?)", sys::unshare(UnshareFlags::NEWNS))?;
    in_context(
        "make mounts private",
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC),
    )
}

fn fixed_umask() {
    // The old mask is of no interest.
    let _ = rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
}

fn report(what: &str, error: &io::Error) -> i32 {
    // Nothing is left to do if standard error itself is gone.
    let _ = writeln!(io::stderr(), "{what}: {error}");
    SETUP_FAILED
}

fn in_context<T>(what: impl std::fmt::Display, result: Result<T, impl Into<io::Error>>) -> io::Result<T> {
    result.map_err(|error| {
        let error = error.into();
        io::Error::new(error.kind(), format!("{what}: {error}"))
    })
}

fn spec_of(arguments: &[OsString]) -> io::Result<Spec> {
    let text = arguments.first().and_then(|a| a.to_str()).unwrap_or_default();
    serde_json::from_str(text).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
}

fn try_enter(arguments: &[OsString]) -> io::Result<i32> {
    let spec = spec_of(arguments)?;
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    let mut flags = UnshareFlags::NEWNS | UnshareFlags::NEWPID | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    if !spec.network {
        flags |= UnshareFlags::NEWNET;
    }
    in_context("the kernel refuses new namespaces", sys::unshare(flags))?;
    #[allow(clippy::disallowed_methods)] // we are inside the process door here
    let status = std::process::Command::new("/proc/self/exe").arg(INIT_COMMAND).args(arguments).status()?;
    Ok(status_number(status))
}

fn status_number(status: std::process::ExitStatus) -> i32 {
    status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

fn try_initialise(arguments: &[OsString]) -> io::Result<i32> {
    let spec = spec_of(arguments)?;
    let [_, program, rest @ ..] = arguments else {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "no program given"));
    };
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    fixed_umask();
    build_root(&spec)?;
    // A name that says nothing of the build host: host names must not leak into an image.
    in_context("set the host name", rustix::system::sethostname(b"localhost"))?;
    drop_capabilities()?;
    #[allow(clippy::disallowed_methods)] // we are inside the process door here
    let mut command = std::process::Command::new(program);
    command.args(rest).env_clear().envs(spec.environment.iter().map(|(k, v)| (k, v))).current_dir("/");
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let name = program.to_string_lossy();
            return Ok(report(&format!("cannot start {name} in the sandbox"), &error));
        }
    };
    Ok(status_number(child.wait()?))
}

/// Makes the new root with all its mounts and moves into it.
fn build_root(spec: &Spec) -> io::Result<()> {
    in_context(
        "make mounts private",
        rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC),
    )?;
    // The new root is assembled where every Linux system has a directory; covering it is seen by us alone.
    let new_root = Path::new("/tmp");
    // Sources are opened before `/tmp` is covered: they may lie below it.
    let sources = spec.mounts.iter().map(Source::open).collect::<io::Result<Vec<_>>>()?;
    let root_source = open_path(&spec.root)?;
    let devices: Vec<_> =
        DEVICES.iter().filter_map(|name| Some((*name, open_path(&Path::new("/dev").join(name)).ok()?))).collect();
    let host_devices = if spec.devices { Some(open_path(Path::new("/dev"))?) } else { None };

    let overlay_root = spec.mounts.iter().zip(&sources).find_map(|(mount, source)| match (mount, source) {
        (Mount::Overlay { inside, .. }, Source::Overlay(layers)) if inside == Path::new("/") => Some(layers),
        _ => None,
    });
    if let Some(layers) = overlay_root {
        mount_overlay(layers, new_root)?;
    } else if spec.writable {
        bind(&fd_path(&root_source), new_root, false)?;
    } else {
        mount_tmpfs(new_root, "mode=0755,size=64M")?;
        populate_read_only(&fd_path(&root_source), new_root)?;
    }
    for directory in ["proc", "dev", "sys", "run", "tmp"] {
        make_directory(&new_root.join(directory))?;
    }
    in_context(
        "mount /proc",
        rustix::mount::mount(
            "proc",
            new_root.join("proc"),
            "proc",
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            None,
        ),
    )?;
    // Root of the host can write kernel settings by its user id alone, whatever its capabilities.
    for kernel in ["proc/sys", "proc/sysrq-trigger"] {
        let path = new_root.join(kernel);
        if path.exists() {
            bind(&path, &path, true)?;
        }
    }
    if let Some(host) = &host_devices {
        in_context("bind /dev", rustix::mount::mount_bind_recursive(fd_path(host), new_root.join("dev")))?;
    } else {
        make_devices(&new_root.join("dev"), &devices)?;
    }
    mount_tmpfs(&new_root.join("run"), "mode=0755")?;
    if !spec.writable && overlay_root.is_none() {
        mount_tmpfs(&new_root.join("tmp"), "mode=1777")?;
    }
    for (mount, source) in spec.mounts.iter().zip(&sources) {
        match (mount, source) {
            (Mount::Bind { inside, read_only, .. }, Source::Bind { fd, directory }) => {
                let target = below(new_root, inside)?;
                if *directory {
                    make_directory(&target)?;
                } else {
                    make_file(&target)?;
                }
                bind(&fd_path(fd), &target, *read_only)?;
            }
            (Mount::Overlay { inside, .. }, Source::Overlay(layers)) if inside != Path::new("/") => {
                let target = below(new_root, inside)?;
                make_directory(&target)?;
                mount_overlay(layers, &target)?;
            }
            _ => {}
        }
    }
    std::env::set_current_dir(new_root)?;
    in_context("change the root", rustix::process::pivot_root(".", "."))?;
    in_context("leave the host's files", rustix::mount::unmount(".", UnmountFlags::DETACH))?;
    std::env::set_current_dir("/")
}

/// A mount's source, opened before the host's `/tmp` is covered.
enum Source {
    Bind { fd: OwnedFd, directory: bool },
    Overlay(Layers),
}

/// The directories of an overlay. They are named to the kernel by descriptor, so that neither a covered
/// path nor a `:` or `,` in one can break the mount's options.
struct Layers {
    lower: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
    volatile: bool,
}

impl Source {
    fn open(mount: &Mount) -> io::Result<Self> {
        match mount {
            Mount::Bind { host, .. } => Ok(Self::Bind { fd: open_path(host)?, directory: host.is_dir() }),
            Mount::Overlay { lower, upper, work, volatile, .. } => Ok(Self::Overlay(Layers {
                lower: lower.iter().map(|path| open_path(path)).collect::<io::Result<_>>()?,
                upper: open_path(upper)?,
                work: open_path(work)?,
                volatile: *volatile,
            })),
        }
    }
}

fn open_path(path: &Path) -> io::Result<OwnedFd> {
    in_context(path.display(), rustix::fs::openat(CWD, path, OFlags::PATH | OFlags::CLOEXEC, rustix::fs::Mode::empty()))
}

fn fd_path(fd: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", fd.as_raw_fd()))
}

fn bind(source: &Path, target: &Path, read_only: bool) -> io::Result<()> {
    in_context(format!("bind {}", target.display()), rustix::mount::mount_bind_recursive(source, target))?;
    if read_only {
        let flags = MountFlags::BIND | MountFlags::RDONLY;
        // In a user namespace the flags that the host set on the mount must be kept.
        let locked = MountFlags::NOSUID | MountFlags::NODEV;
        if rustix::mount::mount_remount(target, flags, "").is_err() {
            in_context(
                format!("make {} read-only", target.display()),
                rustix::mount::mount_remount(target, flags | locked, ""),
            )?;
        }
    }
    Ok(())
}

fn mount_tmpfs(target: &Path, options: &str) -> io::Result<()> {
    let options = std::ffi::CString::new(options)?;
    in_context(
        format!("mount a tmpfs on {}", target.display()),
        rustix::mount::mount("tmpfs", target, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, &*options),
    )
}

fn mount_overlay(layers: &Layers, target: &Path) -> io::Result<()> {
    let lower: Vec<String> = layers.lower.iter().map(|fd| fd_path(fd).display().to_string()).collect();
    let (upper, work) = (fd_path(&layers.upper), fd_path(&layers.work));
    let mut options = format!("lowerdir={},upperdir={},workdir={}", lower.join(":"), upper.display(), work.display());
    if layers.volatile {
        options.push_str(",volatile");
    }
    if super::user::in_user_namespace() {
        // Only the initial user namespace may use `trusted.*` extended attributes.
        options.push_str(",userxattr");
    }
    let options = std::ffi::CString::new(options)?;
    in_context(
        format!("mount an overlay on {}", target.display()),
        rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), &*options),
    )
}

/// Shows every entry of `root` read-only below `target`, where further mount points can be made.
fn populate_read_only(root: &Path, target: &Path) -> io::Result<()> {
    for entry in fs::read_dir(root)? {
        let entry = entry?;
        let place = target.join(entry.file_name());
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            symlink(fs::read_link(entry.path())?, &place)?;
        } else if kind.is_dir() {
            fs::create_dir(&place)?;
            if !["proc", "dev", "sys", "run", "tmp"].iter().any(|name| entry.file_name() == *name) {
                bind(&entry.path(), &place, true)?;
            }
        } else if kind.is_file() {
            make_file(&place)?;
            bind(&entry.path(), &place, true)?;
        }
    }
    Ok(())
}

fn make_devices(dev: &Path, nodes: &[(&str, OwnedFd)]) -> io::Result<()> {
    mount_tmpfs(dev, "mode=0755,size=64k")?;
    for (name, node) in nodes {
        let place = dev.join(name);
        make_file(&place)?;
        bind(&fd_path(node), &place, false)?;
    }
    for (name, target) in [
        ("fd", "/proc/self/fd"),
        ("stdin", "/proc/self/fd/0"),
        ("stdout", "/proc/self/fd/1"),
        ("stderr", "/proc/self/fd/2"),
    ] {
        symlink(target, dev.join(name))?;
    }
    make_directory(&dev.join("shm"))?;
    mount_tmpfs(&dev.join("shm"), "mode=1777")?;
    make_directory(&dev.join("pts"))?;
    let options = c"newinstance,ptmxmode=0666,mode=0620";
    if rustix::mount::mount("devpts", dev.join("pts"), "devpts", MountFlags::NOSUID | MountFlags::NOEXEC, options)
        .is_ok()
    {
        symlink("pts/ptmx", dev.join("ptmx"))?;
    }
    Ok(())
}

fn make_directory(path: &Path) -> io::Result<()> {
    if path.is_dir() { Ok(()) } else { in_context(path.display(), fs::create_dir_all(path)) }
}

fn make_file(path: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        make_directory(parent)?;
    }
    if path.exists() {
        return Ok(());
    }
    in_context(path.display(), fs::File::create(path).map(drop))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

/// `inside` below `root`; refuses `..`, since mount points are made with our rights.
fn below(root: &Path, inside: &Path) -> io::Result<PathBuf> {
    let mut path = root.to_owned();
    for component in inside.components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => path.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidInput,
                    format!("{} leaves the root", inside.display()),
                ));
            }
        }
    }
    Ok(path)
}

fn drop_capabilities() -> io::Result<()> {
    for capability in CapabilitySet::all().difference(KEPT).iter() {
        // A kernel older than a capability refuses to name it, and then cannot grant it either.
        let _ = rustix::thread::remove_capability_from_bounding_set(capability);
    }
    let current = rustix::thread::capabilities(None)?;
    let kept = current.permitted.intersection(KEPT);
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    in_context("drop capabilities", rustix::thread::set_capabilities(None, sets))?;
    in_context("forbid new privileges", rustix::thread::set_no_new_privs(true))
}
