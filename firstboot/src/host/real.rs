//! The machine that the service runs on.

use std::fs::File;
use std::io::{self, Read};
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::addresses::{self, Scope};
use super::{Host, HostError, Ids, ImageFile, InterfaceAddress, Link, Standing, devices, files, links, owned};
use crate::clock::Vouch;
use crate::clock::https::ServerDate;
use crate::config::network::is_container_interface;
use crate::config::{HostAddress, Machine, Secret, Url};
use crate::http::{self, HttpError, HttpRequest, HttpResponse};
use crate::join::engine::{Body, DOCKER_SOCKET, EngineError, Request, Response, exchange};
use crate::process;
use crate::provider::{self, StickError, WriteResults};
use crate::rendezvous::{Grant, NodeIdentity, RendezvousError, request};
use crate::step::LOGINS;
use crate::step::images::{ArchiveImage, images_of};
use crate::sys::{self, EthtoolRequest};

/// How long a name may take to be resolved.
const RESOLVE_PATIENCE: Duration = Duration::from_secs(20);

/// The machine, or, for looking around in a directory, a tree that stands for its root.
#[derive(Debug, Clone)]
pub struct RealHost {
    root: PathBuf,
}

impl Default for RealHost {
    fn default() -> Self {
        Self::new(Path::new("/"))
    }
}

impl RealHost {
    /// Files are taken below `root`; programs, addresses and the clock are the machine's all the same.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }

    /// The addresses of a machine, asked for at most `limit`.
    ///
    /// # Errors
    /// [`HostError::Resolve`].
    pub fn resolve_within(&self, host: &HostAddress, limit: Duration) -> Result<Vec<IpAddr>, HostError> {
        let name = match host {
            HostAddress::Ip(address) => return Ok(vec![*address]),
            HostAddress::Name(name) => name,
        };
        let failed = |reason: String| HostError::Resolve { name: name.clone(), reason };
        // A static program has no name service switch; getent has the system's own.
        let output = process::run("getent", &["ahosts", name], limit.min(RESOLVE_PATIENCE)).map_err(|error| {
            failed(match error {
                process::ProcessError::Failed { .. } => "no name server knows it".into(),
                other => other.to_string(),
            })
        })?;
        let text = String::from_utf8_lossy(&output).into_owned();
        let mut found: Vec<IpAddr> = Vec::new();
        for address in text.lines().filter_map(|line| line.split_whitespace().next()?.parse().ok()) {
            if !found.contains(&address) {
                found.push(address);
            }
        }
        if found.is_empty() { Err(failed("it has no address".into())) } else { Ok(found) }
    }

    fn firmware_text(&self, name: &str) -> Option<String> {
        let bytes = self.read(&format!("/sys/class/dmi/id/{name}"), 4096).ok()??;
        let text = String::from_utf8_lossy(&bytes).trim().to_owned();
        // What firmware writers leave in when they do not care, the same on thousands of machines.
        let unset =
            ["", "none", "not specified", "default string", "to be filled by o.e.m.", "0", "system serial number"];
        (!unset.contains(&text.to_lowercase().as_str())).then_some(text)
    }
}

/// The serial number before what cloud-init is told in it (`ds=nocloud;s=...`), if anything stands there.
fn without_data_source(serial: &str) -> Option<String> {
    let end = serial.find("ds=nocloud").unwrap_or(serial.len());
    Some(serial[..end].trim().to_owned()).filter(|serial| !serial.is_empty())
}

/// The addresses of these scopes, sorted, without those of containers.
fn own_addresses(meant: impl Fn(Scope) -> bool) -> Result<Vec<InterfaceAddress>, HostError> {
    let failed = |source| HostError::System { action: "ask for addresses", source };
    let found = addresses::addresses().map_err(failed)?.into_iter();
    let found = found.filter(|(address, scope)| meant(*scope) && !is_container_interface(&address.interface));
    let mut found: Vec<_> = found.map(|(address, _)| address).collect();
    found.sort();
    Ok(found)
}

impl Host for RealHost {
    fn read(&self, path: &str, limit: u64) -> Result<Option<Vec<u8>>, HostError> {
        let file = match File::open(self.path(path)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(HostError::file("open", path)(error)),
        };
        let mut bytes = Vec::new();
        file.take(limit + 1).read_to_end(&mut bytes).map_err(HostError::file("read", path))?;
        if bytes.len() as u64 > limit {
            return Err(HostError::file("read", path)(io::ErrorKind::FileTooLarge.into()));
        }
        Ok(Some(bytes))
    }

    fn write(&self, path: &str, bytes: &[u8], mode: u32) -> Result<(), HostError> {
        files::write_durable(&files::Kernel, &self.path(path), bytes, mode).map_err(HostError::file("write", path))
    }

    fn write_as(&self, path: &str, bytes: &[u8], mode: u32, ids: Ids) -> Result<(), HostError> {
        owned::write(&self.root, path, bytes, mode, ids).map_err(HostError::file("write", path))
    }

    fn make_directory_as(&self, path: &str, mode: u32, ids: Ids) -> Result<(), HostError> {
        owned::make_directory(&self.root, path, mode, ids).map_err(HostError::file("make the directory", path))
    }

    fn look(&self, path: &str) -> Result<Option<Standing>, HostError> {
        owned::look(&self.root, path).map_err(HostError::file("look at", path))
    }

    fn image_file(&self, path: &str, limit: u64) -> Result<Option<ImageFile>, HostError> {
        if self.root != Path::new("/") {
            return Ok(None);
        }
        owned::image_file(path, limit).map_err(HostError::file("read the image's", path))
    }

    fn append(&self, path: &str, bytes: &[u8]) -> Result<(), HostError> {
        files::append_durable(&files::Kernel, &self.path(path), bytes).map_err(HostError::file("append to", path))
    }

    fn truncate(&self, path: &str, length: u64) -> Result<(), HostError> {
        files::truncate_durable(&files::Kernel, &self.path(path), length).map_err(HostError::file("shorten", path))
    }

    fn remove(&self, path: &str) -> Result<(), HostError> {
        files::remove_durable(&files::Kernel, &self.path(path)).map_err(HostError::file("remove", path))
    }

    fn link(&self, path: &str, target: &str) -> Result<(), HostError> {
        files::link_durable(&files::Kernel, &self.path(path), target).map_err(HostError::file("link", path))
    }

    fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    fn list(&self, path: &str) -> Result<Vec<(String, u64)>, HostError> {
        let entries = match std::fs::read_dir(self.path(path)) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(HostError::file("list", path)(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(HostError::file("list", path))?;
            let metadata = entry.metadata().map_err(HostError::file("list", path))?;
            if let (true, Ok(name)) = (metadata.is_file(), entry.file_name().into_string()) {
                files.push((name, metadata.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    fn names(&self, path: &str) -> Result<Vec<String>, HostError> {
        devices::names(&self.path(path)).map_err(HostError::file("list", path))
    }

    fn make_directory(&self, path: &str) -> Result<(), HostError> {
        std::fs::create_dir_all(self.path(path)).map_err(HostError::file("make", path))
    }

    fn set_kernel(&self, path: &str, value: &str) -> Result<(), HostError> {
        devices::set_kernel(&self.path(path), value).map_err(HostError::file("set", path))
    }

    fn ethtool(&self, interface: &str, request: &mut EthtoolRequest) -> Result<(), HostError> {
        let failed = |source| HostError::System { action: "ask the interface's driver", source };
        sys::ethtool(interface, request).map_err(failed)
    }

    fn read_device(&self, device: &str, offset: u64, length: u64) -> Result<Vec<u8>, HostError> {
        devices::read(&self.path(device), offset, length).map_err(HostError::file("read", device))
    }

    fn clear_device(&self, device: &str, offset: u64, length: u64) -> Result<(), HostError> {
        devices::clear(&self.path(device), offset, length).map_err(HostError::file("clear", device))
    }

    fn is_busy(&self, device: &str) -> Result<bool, HostError> {
        devices::is_busy(&self.path(device)).map_err(HostError::file("open", device))
    }

    fn random_bytes(&self, count: usize) -> Result<Vec<u8>, HostError> {
        let failed =
            |source: rustix::io::Errno| HostError::System { action: "ask for randomness", source: source.into() };
        let mut bytes = vec![0; count];
        let mut filled = 0;
        // Waits until the kernel has gathered enough: a key must not be guessable.
        while filled < count {
            filled +=
                rustix::rand::getrandom(&mut bytes[filled..], rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
        }
        Ok(bytes)
    }

    fn run(&self, program: &str, arguments: &[&str], limit: Duration) -> Result<Vec<u8>, HostError> {
        Ok(process::run(program, arguments, limit)?)
    }

    fn set_hostname(&self, name: &str) -> Result<(), HostError> {
        let failed =
            |source: rustix::io::Errno| HostError::System { action: "set the host name", source: source.into() };
        rustix::system::sethostname(name.as_bytes()).map_err(failed)
    }

    fn machine(&self) -> Machine {
        // A member of a bond has the bond's address now; what it was made with is what documents name.
        let links = links::links(&self.path("/sys/class/net"));
        let macs = links.iter().filter(|link| link.physical).filter_map(Link::identity).collect();
        Machine {
            macs,
            serial: self.firmware_text("product_serial").and_then(|serial| without_data_source(&serial)),
            uuid: self.firmware_text("product_uuid").map(|uuid| uuid.to_lowercase()),
        }
    }

    fn addresses(&self) -> Result<Vec<InterfaceAddress>, HostError> {
        own_addresses(|scope| scope == Scope::Global)
    }

    fn all_addresses(&self) -> Result<Vec<InterfaceAddress>, HostError> {
        own_addresses(|_| true)
    }

    fn links(&self) -> Result<Vec<Link>, HostError> {
        let mut found = links::links(&self.path("/sys/class/net"));
        found.retain(|link| link.name != "lo" && !is_container_interface(&link.name));
        Ok(found)
    }

    fn source_address(&self, to: IpAddr) -> Option<IpAddr> {
        // Connecting a datagram socket sends nothing; it only asks the routing table.
        let any: SocketAddr = if to.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
        let socket = UdpSocket::bind(any).ok()?;
        socket.connect((to, 9)).ok()?;
        Some(socket.local_addr().ok()?.ip()).filter(|address| !address.is_loopback() && !address.is_unspecified())
    }

    fn resolve(&self, host: &HostAddress) -> Result<Vec<IpAddr>, HostError> {
        self.resolve_within(host, RESOLVE_PATIENCE)
    }

    fn http(&self, request: &HttpRequest<'_>) -> Result<HttpResponse, HttpError> {
        // The service runs already when [proxy] is applied, so its own environment has nothing of it.
        let written = self.read(LOGINS, 1024 * 1024).ok().flatten().unwrap_or_default();
        let written = String::from_utf8_lossy(&written);
        let variable = |name: &str| {
            let line = written.lines().rev().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(str::to_owned).or_else(|| std::env::var(name).ok())
        };
        http::exchange(self, request, &variable)
    }

    fn connect(&self, to: SocketAddr, limit: Duration) -> io::Result<()> {
        std::net::TcpStream::connect_timeout(&to, limit).map(drop)
    }

    fn engine(&self, request: &Request<'_>) -> Result<Response, EngineError> {
        let request = match request.body {
            Body::Archive(path) => Request { body: Body::Archive(&self.path(&path.to_string_lossy())), ..*request },
            _ => *request,
        };
        exchange(&self.path(DOCKER_SOCKET), &request)
    }

    fn rendezvous(
        &self,
        manager: IpAddr,
        port: u16,
        secret: &Secret,
        identity: &NodeIdentity,
    ) -> Result<Grant, RendezvousError> {
        request((manager, port).into(), secret, identity, self.now())
    }

    fn archive_images(&self, archive: &str) -> Result<Vec<ArchiveImage>, HostError> {
        images_of(&self.path(archive)).map_err(HostError::file("read", archive))
    }

    fn now(&self) -> u64 {
        // The wall clock is the point: status reports and the journal say when.
        #[allow(clippy::disallowed_methods)]
        let now = std::time::SystemTime::now();
        now.duration_since(std::time::UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
    }

    fn uptime(&self) -> Duration {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::from_secs(u64::try_from(now.tv_sec).unwrap_or(0))
            + Duration::from_nanos(u64::try_from(now.tv_nsec).unwrap_or(0))
    }

    fn set_clock(&self, seconds: u64) -> Result<(), HostError> {
        let failed = |source: rustix::io::Errno| HostError::System { action: "set the clock", source: source.into() };
        let time = rustix::time::Timespec { tv_sec: i64::try_from(seconds).unwrap_or(i64::MAX), tv_nsec: 0 };
        rustix::time::clock_settime(rustix::time::ClockId::Realtime, time).map_err(failed)
    }

    fn rtc(&self) -> Option<u64> {
        let bytes = self.read("/sys/class/rtc/rtc0/since_epoch", 64).ok()??;
        std::str::from_utf8(&bytes).ok()?.trim().parse().ok()
    }

    fn set_rtc(&self, seconds: u64) -> Result<(), HostError> {
        let path = "/dev/rtc0";
        let chip = File::options().read(true).open(self.path(path)).map_err(HostError::file("open", path))?;
        crate::sys::set_rtc(&chip, crate::clock::civil::Civil::of(seconds)).map_err(HostError::file("set", path))
    }

    fn https_date(&self, url: &Url, vouch: &Vouch) -> Result<ServerDate, String> {
        let addresses = self.resolve(url.host()).map_err(|error| error.to_string())?;
        crate::clock::https::ask(url, &addresses, vouch)
    }

    fn write_results(&self, write: WriteResults<'_>) -> Result<String, StickError> {
        provider::write_results(write)
    }

    fn random_below(&self, bound: u64) -> u64 {
        let mut bytes = [0; 8];
        // Where the kernel has no randomness yet, no jitter does less harm than no progress.
        let _ = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::NONBLOCK);
        u64::from_ne_bytes(bytes) % bound.max(1)
    }

    fn sleep(&self, duration: Duration) {
        std::thread::sleep(duration);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_can_stand_for_the_machine() {
        let directory = tempfile::tempdir().unwrap();
        let host = RealHost::new(directory.path());
        assert!(host.read("/etc/hostname", 10).unwrap().is_none());
        host.write("/etc/hostname", b"w1\n", 0o644).unwrap();
        assert_eq!(host.read("/etc/hostname", 3).unwrap().unwrap(), b"w1\n");
        assert!(host.read("/etc/hostname", 2).is_err());
        assert_eq!(host.list("/etc").unwrap(), [("hostname".to_owned(), 3)]);
        assert_eq!(host.list("/none").unwrap(), []);
        assert!(host.random_below(1) == 0 && host.random_below(10) < 10);
    }

    #[test]
    fn names_are_resolved_and_addresses_need_not_be() {
        let host = RealHost::default();
        let address: IpAddr = "10.77.0.10".parse().unwrap();
        assert_eq!(host.resolve(&HostAddress::Ip(address)).unwrap(), [address]);
        let error = host.resolve(&HostAddress::Name("no-such-name.invalid".into())).unwrap_err();
        assert!(error.to_string().contains("no-such-name.invalid"), "{error}");
        assert!(host.resolve(&HostAddress::Name("localhost".into())).unwrap().iter().all(IpAddr::is_loopback));
    }

    #[test]
    fn placeholders_of_the_firmware_are_no_serial_numbers() {
        let directory = tempfile::tempdir().unwrap();
        let host = RealHost::new(directory.path());
        host.write("/sys/class/dmi/id/product_serial", b"To Be Filled By O.E.M.\n", 0o400).unwrap();
        host.write("/sys/class/dmi/id/product_uuid", b"AB-CD\n", 0o400).unwrap();
        let machine = host.machine();
        assert_eq!((machine.serial, machine.uuid.as_deref()), (None, Some("ab-cd")));
        assert_eq!(without_data_source("SN7 ds=nocloud;s=http://x/").as_deref(), Some("SN7"));
        assert_eq!(without_data_source("ds=nocloud;s=http://x/"), None);
    }
}
