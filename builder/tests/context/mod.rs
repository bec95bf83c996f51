//! What every test starts from: a project directory of its own, and the `ingot` command run in it.
//!
//! Three projects:
//! - [`TestContext::on`]: profiles on nothing but a generated archive. Needs neither network nor root; for all that
//!   ends before packages are installed.
//! - [`TestContext::bare`]: the essential packages of Debian 13 and a kernel that does not boot. A build takes
//!   seconds; for all that goes wrong while installing.
//! - [`TestContext::small`]: what every node has, on Debian 13, with a real kernel.
//!
//! The latter two need Debian's archive once (its packages are kept in `INGOT_TEST_CACHE`, or below the target
//! directory), and root or a user with subordinate ids. Where something is missing a test says so in
//! one line and passes; `INGOT_TEST_NO_SKIP=1` makes it fail instead.

pub mod archive;
pub mod ubuntu;

use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

use archive::Archive;
use tempfile::TempDir;

/// All forms of an image.
pub const FORMS: [&str; 2] = ["--output", "raw,raw.zst,qcow2"];

/// A project: profiles, overlays, a lock, a cache.
pub struct TestContext {
    directory: Option<TempDir>,
    cache: PathBuf,
    role: &'static str,
    environment: Vec<(String, String)>,
}

/// How a run of `ingot` ended.
#[derive(Debug)]
pub struct Outcome {
    /// Exit code; 128 and the signal's number where a signal ended it.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Outcome {
    /// Asserts success.
    #[track_caller]
    pub fn succeeded(self) -> Self {
        assert_eq!(self.code, 0, "ingot failed:\n{}{}", self.stdout, self.stderr);
        self
    }

    /// Asserts the exit code and that the error has all these words.
    #[track_caller]
    pub fn failed(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "wrong exit code:\n{}{}", self.stdout, self.stderr);
        let message = self.error();
        for word in words {
            assert!(message.contains(word), "the error should say `{word}`, but is:\n{message}");
        }
        self
    }

    /// What is said after `error:`.
    pub fn error(&self) -> String {
        self.stderr.split_once("error: ").map(|(_, message)| message.to_owned()).unwrap_or_default()
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("standard output is not JSON ({error}):\n{}{}", self.stdout, self.stderr))
    }
}

impl TestContext {
    /// A project whose only repository is `archive`, with the role `site/node` that includes `packages`.
    pub fn on(archive: &Archive, packages: &[&str]) -> Self {
        let context = Self::empty("site/node");
        context.write("profiles/base/keyrings/vendor.pgp", archive.keyring());
        context.write(
            "profiles/base/debian-13.toml",
            format!(
                "[base]\ndistribution = \"debian\"\ncodename = \"test\"\nversion = \"13\"\nrepositories = [\"vendor\"]\n\n{}\n\
                 [kernel]\npackage = \"kernel\"\n",
                vendor(archive, "keyrings/vendor.pgp")
            ),
        );
        context.write("profiles/parts/tools.toml", "[packages]\ninclude = [\"tools\"]\n");
        context.write_role(&format!("[packages]\ninclude = {packages:?}\n"));
        context
    }

    /// A project with the role `site/node`: Debian 13's essential packages, and `packages` of `archive`, which also
    /// has the kernel.
    pub fn bare(archive: &Archive, packages: &[&str]) -> Option<Self> {
        let store = shared()?;
        let context = Self::empty("site/node");
        context.copy_profiles();
        context.write(
            "profiles/base/debian-13.toml",
            fs::read_to_string(repository().join("profiles/base/debian-13.toml"))
                .unwrap()
                .replace("extends = [\"parts/node\"]\n", ""),
        );
        context.write("profiles/site/vendor.pgp", archive.keyring());
        context.write_role(&format!(
            "{}\n[packages]\ninclude = {packages:?}\n[kernel]\npackage = \"kernel\"\n",
            vendor(archive, "vendor.pgp")
        ));
        context.take_store(store);
        Some(context)
    }

    /// A project with the role `small`, with the lock and the packages of [`shared`].
    pub fn small() -> Option<Self> {
        Self::small_in(work())
    }

    /// The same below another directory than that of all other projects.
    pub fn small_in(place: &Path) -> Option<Self> {
        let store = shared()?;
        let context = Self::empty_in("small", place);
        context.write_small();
        context.take_store(store);
        fs::copy(store.join("ingot.lock"), context.path("ingot.lock")).unwrap();
        Some(context)
    }

    pub fn empty(role: &'static str) -> Self {
        Self::empty_in(role, work())
    }

    fn empty_in(role: &'static str, place: &Path) -> Self {
        let directory = TempDir::with_prefix_in("project-", place).unwrap();
        let cache = directory.path().join("cache");
        Self { directory: Some(directory), cache, role, environment: Vec::new() }
    }

    fn write_small(&self) {
        self.copy_profiles();
        self.write(
            "profiles/small.toml",
            "description = \"What every node has\"\ndefault_base = \"debian-13\"\n\n[kernel]\npackage = \"linux-image-cloud-amd64\"\n",
        );
    }

    /// The repository's own profiles and overlays, with the tools that a build of an image uses and no others.
    pub fn copy_profiles(&self) {
        for name in ["profiles", "overlays"] {
            copy_tree(&repository().join(name), &self.path(name));
        }
        self.write("profiles/parts/tools.toml", "[packages]\ninclude = [\"erofs-utils\", \"systemd-boot-efi\"]\n");
    }

    /// Writes the profile of `site/node`.
    pub fn write_role(&self, text: &str) {
        self.write("profiles/site/node.toml", format!("default_base = \"debian-13\"\n{text}"));
    }

    /// Takes what was downloaded, and nothing that was built.
    pub fn take_store(&self, from: &Path) {
        let store = self.cache.join("store");
        link_tree(&from.join("store/objects"), &store.join("objects"));
        copy_tree(&from.join("store/releases"), &store.join("releases"));
    }

    /// The one entry of a kind that the cache has.
    pub fn entry(&self, kind: &str) -> PathBuf {
        let entries: Vec<PathBuf> = fs::read_dir(self.cache.join(kind))
            .unwrap()
            .flatten()
            .filter(|entry| !entry.file_name().to_string_lossy().starts_with('.'))
            .map(|entry| entry.path())
            .collect();
        let [entry] = entries.as_slice() else { panic!("not one entry: {entries:?}") };
        entry.clone()
    }

    /// A program of the tools tree, which needs no sandbox to read a file.
    pub fn tool(&self, program: &str) -> Command {
        let tools = self.entry("tools");
        #[allow(clippy::disallowed_methods)] // the door for processes is what is tested here
        let mut command = Command::new(tools.join("usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(tools.join("usr/lib/x86_64-linux-gnu"));
        command.arg(tools.join("usr/bin").join(program));
        command
    }

    /// The files of the image's root, read back by `fsck.erofs` of the tools tree.
    pub fn extract_root(&self) -> PathBuf {
        let target = self.path("extracted");
        let image = self.entry("roots").join("root.img");
        let output = self
            .tool("fsck.erofs")
            .arg(format!("--extract={}", target.display()))
            .args(["--preserve", "--overwrite"])
            .arg(&image)
            .output()
            .unwrap();
        assert!(output.status.success(), "fsck.erofs: {}", String::from_utf8_lossy(&output.stderr));
        target
    }

    /// Shares this cache instead of its own.
    pub fn with_cache(mut self, cache: &Path) -> Self {
        cache.clone_into(&mut self.cache);
        self
    }

    pub fn with_environment(mut self, key: &str, value: &str) -> Self {
        self.environment.push((key.to_owned(), value.to_owned()));
        self
    }

    pub fn root(&self) -> &Path {
        self.directory.as_ref().unwrap().path()
    }

    pub fn path(&self, relative: &str) -> PathBuf {
        self.root().join(relative)
    }

    pub fn cache(&self) -> &Path {
        &self.cache
    }

    pub fn write(&self, relative: &str, content: impl AsRef<[u8]>) {
        let path = self.path(relative);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    pub fn read(&self, relative: &str) -> String {
        let path = self.path(relative);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// `ingot` with these arguments, in the project and with a known environment.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Command {
        self.command_by(&[], arguments)
    }

    /// The same, started by another program: `["unshare", "--uts"]`.
    pub fn command_by<S: AsRef<OsStr>>(&self, wrapper: &[&str], arguments: &[S]) -> Command {
        let ingot = env!("CARGO_BIN_EXE_ingot");
        #[allow(clippy::disallowed_methods)] // the door for processes is what is tested here
        let mut command = Command::new(wrapper.first().copied().unwrap_or(ingot));
        if let [_, rest @ ..] = wrapper {
            command.args(rest).arg(ingot);
        }
        command.args(arguments).current_dir(self.root()).env_clear();
        let path = std::env::var_os("PATH").unwrap_or_default();
        command.env("PATH", path).env("HOME", self.root()).env("INGOT_CACHE", &self.cache);
        // Which mirror to use is the host's to say.
        command.envs(std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("INGOT_MIRROR_")));
        if let Some(programs) = node_programs() {
            command.env("INGOT_NODE_PROGRAMS", programs);
        }
        command.envs(self.environment.iter().map(|(key, value)| (key, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs `ingot` to its end.
    pub fn ingot<S: AsRef<OsStr>>(&self, arguments: &[S]) -> Outcome {
        finish(self.command(arguments).spawn().unwrap())
    }

    /// `ingot lock` of the project's role.
    pub fn lock(&self) -> Outcome {
        self.ingot(&["lock", self.role])
    }

    /// `ingot build` of the project's role, with more arguments.
    pub fn build(&self, arguments: &[&str]) -> Outcome {
        self.ingot(&[&["build", self.role], arguments].concat())
    }

    /// Starts `ingot build` in a process group of its own and waits until it says `line`.
    pub fn build_until(&self, line: &str) -> Running {
        let mut child = self.command(&["build", self.role]).process_group(0).spawn().unwrap();
        let mut stderr = std::io::BufReader::new(child.stderr.take().unwrap());
        let mut seen = String::new();
        while !seen.lines().any(|seen| seen == line) {
            let read = std::io::BufRead::read_line(&mut stderr, &mut seen).unwrap();
            assert_ne!(read, 0, "ingot ended before it said `{line}`:\n{seen}");
        }
        Running { child, stderr }
    }

    /// Replaces what differs between two runs of a test.
    pub fn filtered(&self, text: &str) -> String {
        let mut text = text.replace(&self.root().display().to_string(), "[PROJECT]");
        for (pattern, replacement) in [
            (r"\b[0-9a-f]{64}\b", "[SHA256]"),
            (r"\b[0-9a-f]{12}\b", "[KEY]"),
            (r"127\.0\.0\.1:\d+", "[HOST]"),
            (r"\b\d+ packages", "[N] packages"),
        ] {
            text = regex::Regex::new(pattern).unwrap().replace_all(&text, replacement).into_owned();
        }
        text
    }
}

impl Drop for TestContext {
    fn drop(&mut self) {
        let Some(directory) = self.directory.take() else { return };
        let path = directory.path().to_owned();
        if directory.close().is_err() {
            // Files that "root" made as an ordinary user belong to subordinate ids.
            #[allow(clippy::disallowed_methods)] // the door for processes is what is tested here
            let _ = Command::new("unshare").args(["--map-root-user", "--map-auto", "rm", "-rf"]).arg(path).status();
        }
    }
}

/// A build under way.
pub struct Running {
    child: Child,
    stderr: std::io::BufReader<std::process::ChildStderr>,
}

impl Running {
    /// The process group of the build and all it started.
    pub fn group(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to `ingot` alone, or to the whole group as a terminal does.
    pub fn signal(&self, signal: rustix::process::Signal, group: bool) {
        let pid = rustix::process::Pid::from_child(&self.child);
        let sent = if group {
            rustix::process::kill_process_group(pid, signal)
        } else {
            rustix::process::kill_process(pid, signal)
        };
        sent.unwrap();
    }

    pub fn wait(mut self) -> Outcome {
        let mut stderr = String::new();
        let _ = self.stderr.read_to_string(&mut stderr);
        let mut outcome = finish(self.child);
        outcome.stderr = stderr;
        outcome
    }
}

/// Waits for `ingot` and takes what it says.
pub fn finish(child: Child) -> Outcome {
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let code = output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0));
    Outcome { code, stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Says that a test did nothing, and why.
pub fn skip(reason: &str) {
    assert!(std::env::var_os("INGOT_TEST_NO_SKIP").is_none(), "may not be skipped: {reason}");
    println!("skipped: {}", reason.trim_end());
}

/// Whether the test runs as root; says that it is skipped otherwise.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        skip("this test needs root");
    }
    root
}

/// A program of the host that a test checks a result with; says that it is skipped where it is missing.
pub fn program(name: &str) -> Option<Command> {
    let directories = std::env::var("PATH").unwrap_or_default() + ":/usr/sbin:/sbin";
    let found = directories.split(':').map(|directory| Path::new(directory).join(name)).find(|path| path.is_file());
    if found.is_none() {
        skip(&format!("{name} is not installed"));
    }
    #[allow(clippy::disallowed_methods)] // the door for processes is what is tested here
    found.map(Command::new)
}

/// The repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn vendor(archive: &Archive, keyring: &str) -> String {
    format!(
        "[repositories.vendor]\nurl = \"{}\"\nsuites = [\"test\"]\ncomponents = [\"main\"]\nkeyring = \"{keyring}\"\n",
        archive.url()
    )
}

/// Where projects are made and downloads are kept: one file system, so that links do instead of copies.
fn work() -> &'static Path {
    static WORK: OnceLock<PathBuf> = OnceLock::new();
    WORK.get_or_init(|| {
        let path = std::env::var_os("INGOT_TEST_CACHE")
            .map_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("ingot-e2e"), PathBuf::from);
        fs::create_dir_all(&path).unwrap();
        path.canonicalize().unwrap()
    })
}

/// The directory with the downloads and the lock of `small`, filled once per run. None where that cannot be done here.
pub fn shared() -> Option<&'static Path> {
    static SHARED: OnceLock<Option<PathBuf>> = OnceLock::new();
    let shared = SHARED.get_or_init(|| {
        let Err(reason) = fill_shared() else { return Some(work().join("shared")) };
        println!("cannot build here: {reason}");
        None
    });
    if shared.is_none() {
        skip("nothing can be built here, see above");
    }
    shared.as_deref()
}

fn fill_shared() -> Result<(), String> {
    node_programs().ok_or("the static programs of the node cannot be built")?;
    let shared = work().join("shared");
    fs::create_dir_all(&shared).unwrap();
    // A test runner may run every test in a process of its own.
    let lock = fs::File::create(shared.join(".lock")).unwrap();
    lock.lock().unwrap();
    let context = TestContext::empty("small").with_cache(&shared);
    context.write_small();
    let lacks = |outcome: &Outcome, words: &[&str]| {
        outcome.code != 0 && words.iter().any(|words| outcome.stderr.contains(words))
    };
    let outcome = context.lock();
    if lacks(&outcome, &["no mirror is known", "cannot fetch"]) {
        return Err(outcome.stderr);
    }
    outcome.succeeded();
    let partial = shared.join("ingot.lock.part");
    fs::copy(context.path("ingot.lock"), &partial).unwrap();
    fs::rename(&partial, shared.join("ingot.lock")).unwrap();
    let plan = context.build(&["--plan", "--json"]).succeeded().json();
    if plan[0]["steps"]
        .as_array()
        .unwrap()
        .iter()
        .all(|step| step["cached"] == true || step["name"] == "image" || step["name"] == "publish")
    {
        return Ok(());
    }
    let outcome = context.build(&[]);
    if lacks(&outcome, &["no range of at least", "cannot map user ids", "kernel refuses", "cannot fetch"]) {
        return Err(outcome.stderr);
    }
    outcome.succeeded();
    Ok(())
}

/// The directory of the static programs for the node.
fn node_programs() -> Option<&'static Path> {
    static PROGRAMS: OnceLock<Option<PathBuf>> = OnceLock::new();
    let programs = PROGRAMS.get_or_init(|| {
        if let Some(given) = std::env::var_os("INGOT_NODE_PROGRAMS") {
            return Some(PathBuf::from(given));
        }
        let target = "x86_64-unknown-linux-gnu";
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).parent()?;
        #[allow(clippy::disallowed_methods)] // the door for processes is what is tested here
        let built = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--locked", "--release", "--quiet", "--package", "ingot-firstboot", "--target", target])
            .arg("--target-dir")
            .arg(directory)
            .env("RUSTFLAGS", "-C target-feature=+crt-static")
            .current_dir(repository())
            .status();
        let programs = directory.join(target).join("release");
        (built.is_ok_and(|status| status.success()) && programs.join("stage1").exists()).then_some(programs)
    });
    programs.as_deref()
}

/// Copies a tree.
pub fn copy_tree(from: &Path, to: &Path) {
    each(from, to, &|from, to| {
        fs::copy(from, to).unwrap();
    });
}

/// Copies a tree of files that are never changed: links where the file system has them.
fn link_tree(from: &Path, to: &Path) {
    each(from, to, &|from, to| {
        if fs::hard_link(from, to).is_err() {
            fs::copy(from, to).unwrap();
        }
    });
}

fn each(from: &Path, to: &Path, file: &dyn Fn(&Path, &Path)) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            each(&from, &to, file);
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&from).unwrap(), &to).unwrap();
        } else {
            file(&from, &to);
        }
    }
}
