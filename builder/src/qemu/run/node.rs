//! One guest of a run: its disk, medium, firmware and log, and its virtual machine while that is on.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::{ImageKey, ImageRef};
use crate::profile::QemuFacts;
use crate::qemu::accel::Accelerator;
use crate::qemu::console::Console;
use crate::qemu::guest::Running;
use crate::qemu::launcher::Launcher;
use crate::qemu::machine::{Machine, Serial};
use crate::qemu::scenario::{FW_CFG, Guest, Medium, OtherStick, SSH_NETWORK, Scenario, Stick};
use crate::qemu::site_key::SiteKey;
use crate::qemu::switch::{Port, Switch};
use crate::qemu::tpm::Tpm;
use crate::qemu::variables::{VariableError, Variables};
use crate::qemu::{QemuError, at, disk, medium};

/// What a virtual machine gets where neither the scenario nor a profile says.
const PLAIN: QemuFacts = QemuFacts { memory_mib: 2048, cpus: 2, disk_gib: 16 };

/// Where a run works.
pub(in crate::qemu) struct Place<'a> {
    pub launcher: &'a dyn Launcher,
    /// Logs and disks.
    pub work: &'a Path,
    /// Sockets, firmware, media.
    pub runtime: &'a Path,
    pub accelerator: Accelerator,
}

/// The switches of a run, and which port of them is whose: by guest and card.
pub(super) struct Wiring {
    pub switches: Vec<Switch>,
    ports: BTreeMap<(String, String), Port>,
}

impl Wiring {
    /// Starts a switch for every network.
    pub fn start(scenario: &Scenario, runtime: &Path) -> Result<Self, QemuError> {
        let mut wiring = Self { switches: Vec::new(), ports: BTreeMap::new() };
        for (index, network) in scenario.networks.iter().enumerate() {
            let of = |guest: &Guest| -> Vec<(String, String)> {
                let here = guest.cards().into_iter().filter(|(on, _)| on == network);
                here.map(|(_, card)| (guest.name.clone(), card)).collect()
            };
            let cards: Vec<(String, String)> = scenario.guests.iter().flat_map(of).collect();
            let switch = Switch::start(runtime, &format!("net{index}"), cards.len())?;
            wiring.ports.extend(cards.into_iter().zip(switch.ports().iter().cloned()));
            wiring.switches.push(switch);
        }
        Ok(wiring)
    }

    /// The cards of a guest, in the order of its networks.
    fn cards(&self, guest: &Guest) -> Vec<(Port, String)> {
        let port = |card: &String| self.ports.get(&(guest.name.clone(), card.clone())).cloned();
        guest.cards().into_iter().filter_map(|(_, card)| Some((port(&card)?, guest.mac(&card)))).collect()
    }
}

pub(super) struct Node<'a> {
    pub guest: &'a Guest,
    pub console: Console,
    /// What QEMU itself prints.
    pub messages: PathBuf,
    /// How QEMU ended, where nobody had asked it to.
    pub ended: Option<String>,
    pub running: Option<Running>,
    /// The forwarded port while it is on.
    pub port: u16,
    variables: Variables,
    machine: Machine,
    tpm: Option<Tpm>,
    image: PathBuf,
    /// How many other sticks there were.
    sticks: u32,
}

/// The image that a guest boots.
pub(super) fn image_of(guest: &Guest, images: &BTreeMap<ImageKey, ImageRef>) -> Result<ImageRef, QemuError> {
    if let Some(path) = &guest.image {
        return Ok(ImageRef { path: path.clone(), facts: PLAIN });
    }
    let key = guest.image_key().unwrap_or(ImageKey { role: String::new(), sector: guest.sector });
    images.get(&key).cloned().ok_or(QemuError::NoImage { role: key.role, sector: key.sector })
}

/// The firmware's code and a fresh copy of its variables, in the run's own directory.
pub(in crate::qemu) fn firmware(place: &Place<'_>, name: &str) -> Result<(PathBuf, PathBuf), QemuError> {
    let (code, variables) = place.launcher.firmware();
    let own_code = place.runtime.join("firmware.fd");
    if !own_code.exists() {
        std::fs::copy(&code, &own_code).map_err(at("cannot copy firmware", &code))?;
    }
    let own_variables = place.runtime.join(format!("{name}.vars"));
    // Read and written, not copied: the template may be read-only, and the copy must not be.
    let template = std::fs::read(&variables).map_err(at("cannot read firmware", &variables))?;
    std::fs::write(&own_variables, template).map_err(at("cannot write", &own_variables))?;
    Ok((own_code, own_variables))
}

impl<'a> Node<'a> {
    pub fn prepare(
        place: &Place<'_>,
        guest: &'a Guest,
        image: ImageRef,
        wiring: &Wiring,
        common: &Variables,
        reaches_servers: bool,
    ) -> Result<Self, QemuError> {
        let name = &guest.name;
        let variables = variables(guest, common.clone());
        let replace = |text: &String| variables.replace(text).map_err(|source| wrong(guest, source));
        let medium = match guest.medium {
            Some(kind) => Some((kind, write_medium(place, guest, kind, &variables)?)),
            None => None,
        };
        let gib = guest.disk_gib.unwrap_or(image.facts.disk_gib);
        let disk = disk::prepare(place.launcher, &image.path, place.work, name, gib, guest.sector, &guest.flip_bit)?;
        let (firmware_code, firmware_variables) = firmware(place, name)?;
        let log = place.work.join(format!("{name}.console.log"));
        std::fs::write(&log, b"").map_err(at("cannot write", &log))?;
        let tpm = guest.tpm.then(|| Tpm::new(name, place.work, place.runtime)).transpose()?;
        let machine = Machine {
            name: name.clone(),
            accelerator: place.accelerator,
            memory_mib: guest.memory_mib.unwrap_or(image.facts.memory_mib),
            cpus: guest.cpus.unwrap_or(image.facts.cpus),
            firmware_code,
            firmware_variables,
            disk,
            bus: guest.bus,
            data_disks: data_disks(place, guest)?,
            oem_strings: credentials(guest, &variables)?,
            kernel_arguments: guest.kernel_arguments.iter().map(replace).collect::<Result<_, _>>()?,
            fw_cfg: fw_cfg(place, guest, &variables)?,
            medium,
            stick: guest.stick,
            read_only: false,
            display: guest.display,
            tpm: tpm.as_ref().map(|tpm| tpm.socket().to_owned()),
            cards: wiring.cards(guest),
            ssh_mac: Some(guest.mac(SSH_NETWORK)),
            // Servers are on the host, and QEMU lets guests reach that only together with everything behind it.
            internet: reaches_servers,
            serial_number: replace(&guest.serial())?,
            serial: Serial::Log(log.clone()),
            control: place.runtime.join(format!("{name}.qmp")),
        };
        Ok(Self {
            guest,
            console: Console::follow(&log).map_err(at("cannot follow", &log))?,
            messages: place.work.join(format!("{name}.qemu.log")),
            ended: None,
            running: None,
            port: 0,
            variables,
            machine,
            tpm,
            image: image.path,
            sticks: 0,
        })
    }

    /// Switches it on; nothing happens where it is on.
    pub fn switch_on(&mut self, launcher: &dyn Launcher) -> Result<(), QemuError> {
        if self.running.is_some() {
            return Ok(());
        }
        self.ended = None;
        self.console.power_on();
        if let Some(tpm) = &mut self.tpm {
            tpm.start(launcher)?;
        }
        let mut running = Running::start(launcher, &self.machine, &self.image, &self.messages)?;
        self.port = running.ssh_port()?;
        self.running = Some(running);
        Ok(())
    }

    /// Cuts the power; nothing happens where it is off.
    pub fn switch_off(&mut self) -> Result<(), QemuError> {
        self.notice_end();
        self.running.take().map_or(Ok(()), Running::cut)
    }

    /// Puts the configuration stick in or pulls it out; it stays so when the power is cut and comes back.
    pub fn stick(&mut self, stick: Stick) -> Result<(), QemuError> {
        self.machine.stick = stick == Stick::In;
        let (Some(running), Some((_, file))) = (&mut self.running, &self.machine.medium) else { return Ok(()) };
        let qmp = running.control()?;
        let done = if self.machine.stick { qmp.plug_stick(file, self.machine.read_only) } else { qmp.pull_stick() };
        done.map_err(|source| QemuError::Control { guest: self.guest.name.clone(), source })
    }

    /// Puts another stick in, with these files; it stays so when the power is cut and comes back.
    pub fn other_stick(&mut self, other: &OtherStick, site_key: &mut SiteKey) -> Result<(), QemuError> {
        let Some((Medium::Usb, path)) = &self.machine.medium else { return Ok(()) };
        let wrong = |source| wrong(self.guest, source);
        let mut files = BTreeMap::new();
        let config =
            other.config.as_ref().map(|config| self.variables.replace_in(config)).transpose().map_err(wrong)?;
        let config = config.map(|config| ("node.toml".to_owned(), config.to_string()));
        let texts = other.files.iter().map(|(name, text)| Ok((name.clone(), self.variables.replace(text)?)));
        for (name, text) in texts.collect::<Result<Vec<_>, _>>().map_err(wrong)?.into_iter().chain(config) {
            let bytes = text.into_bytes();
            if other.sign {
                files.insert(format!("{name}.minisig"), site_key.sign(&name, &bytes)?);
            }
            files.insert(name, bytes);
        }
        self.sticks += 1;
        let path = path.with_extension(format!("ingot{}", self.sticks));
        medium::write(&path, Medium::Usb.label(), &files)?;
        if self.machine.stick {
            self.stick(Stick::Out)?;
        }
        self.machine.medium = Some((Medium::Usb, path));
        self.machine.read_only = other.read_only;
        self.stick(Stick::In)
    }

    /// The bytes of a file on the stick, as it is now.
    pub fn on_stick(&self, path: &str) -> Result<Vec<u8>, QemuError> {
        match &self.machine.medium {
            Some((Medium::Usb, medium)) => medium::read(medium, path),
            _ => Ok(Vec::new()),
        }
    }

    /// Writes a picture of the screen, as PNG.
    pub fn screen(&mut self, path: &Path) -> Result<(), QemuError> {
        let Some(running) = &mut self.running else {
            let tail = "it is switched off".to_owned();
            return Err(QemuError::Ended { guest: self.guest.name.clone(), tail });
        };
        let taken = running.control()?.screendump(path);
        taken.map_err(|source| QemuError::Control { guest: self.guest.name.clone(), source })
    }

    /// Makes the disk larger; the guest must be off.
    pub fn grow_disk(&self, launcher: &dyn Launcher, gib: u64) -> Result<(), QemuError> {
        self.machine.disk.grow(launcher, &self.image, gib)
    }

    /// Puts a blank TPM in; the guest must be off.
    pub fn replace_tpm(&mut self) -> Result<(), QemuError> {
        self.tpm.as_mut().map_or(Ok(()), Tpm::replace)
    }

    /// Why it cannot go on, if so.
    pub fn dead(&mut self) -> Option<String> {
        self.notice_end();
        self.console.seen().dead.clone().or_else(|| self.ended.clone())
    }

    fn notice_end(&mut self) {
        if let Some(running) = self.running.take_if(|running| !running.is_on()) {
            let said = running.said();
            let said = if said.is_empty() { "it said nothing".to_owned() } else { said };
            self.ended = Some(format!("the virtual machine ended by itself: {said}"));
        }
    }

    pub fn image_name(&self) -> String {
        self.guest.role.clone().unwrap_or_else(|| self.image.display().to_string())
    }
}

impl Drop for Node<'_> {
    fn drop(&mut self) {
        // QEMU first: it must not write to a disk that is gone.
        self.running = None;
        for path in self.machine.data_disks.iter().map(|(_, path)| path).chain([&self.machine.disk.path]) {
            drop(std::fs::remove_file(path));
        }
    }
}

fn variables(guest: &Guest, common: Variables) -> Variables {
    let cards = guest.cards().into_iter().map(|(_, card)| card).chain([SSH_NETWORK.to_owned()]);
    cards.fold(common.with("guest", &guest.name), |all, card| all.with(&format!("mac.{card}"), &guest.mac(&card)))
}

fn wrong(guest: &Guest, source: VariableError) -> QemuError {
    QemuError::Variable { guest: format!("guest {}", guest.name), source }
}

/// Makes the empty disks of a guest.
fn data_disks(place: &Place<'_>, guest: &Guest) -> Result<Vec<(String, PathBuf)>, QemuError> {
    let mut made = Vec::new();
    for (index, disk) in guest.data_disks.iter().enumerate() {
        let path = place.work.join(format!("{}.data{index}", guest.name));
        let file = std::fs::File::create(&path).map_err(at("cannot write", &path))?;
        file.set_len(disk.size_mib.saturating_mul(1 << 20)).map_err(at("cannot write", &path))?;
        made.push((disk.serial.clone(), path));
    }
    Ok(made)
}

/// The guest's credentials as systemd takes them from SMBIOS (systemd.system-credentials(7)).
fn credentials(guest: &Guest, variables: &Variables) -> Result<Vec<String>, QemuError> {
    let one = |(name, text): (&String, &String)| {
        let text = STANDARD.encode(variables.replace(text).map_err(|source| wrong(guest, source))?);
        Ok(format!("io.systemd.credential.binary:{name}={text}"))
    };
    guest.credentials.iter().map(one).collect()
}

/// The guest's credentials for `fw_cfg`, as names and files.
fn fw_cfg(place: &Place<'_>, guest: &Guest, variables: &Variables) -> Result<Vec<(String, PathBuf)>, QemuError> {
    let mut written = Vec::new();
    for (index, (name, text)) in guest.fw_cfg.iter().enumerate() {
        let path = place.runtime.join(format!("{}.fw{index}", guest.name));
        let text = variables.replace(text).map_err(|source| wrong(guest, source))?;
        std::fs::write(&path, text).map_err(at("cannot write", &path))?;
        written.push((format!("{FW_CFG}{name}"), path));
    }
    Ok(written)
}

fn write_medium(place: &Place<'_>, guest: &Guest, kind: Medium, variables: &Variables) -> Result<PathBuf, QemuError> {
    let wrong = |source| wrong(guest, source);
    let config = if let Some(table) = &guest.config {
        // A table that was read from TOML can be written as TOML.
        Some(variables.replace_in(table).map_err(wrong)?.to_string())
    } else if let Some(path) = &guest.config_file {
        let text = std::fs::read_to_string(path).map_err(at("cannot read", path))?;
        Some(variables.replace(&text).map_err(wrong)?)
    } else {
        None
    };
    let mut files = config.map_or_else(BTreeMap::new, |text| kind.files(&text, &guest.name));
    for (name, text) in &guest.files {
        files.insert(name.clone(), variables.replace(text).map_err(wrong)?.into_bytes());
    }
    let path = place.runtime.join(format!("{}.{}", guest.name, kind.label().to_lowercase()));
    medium::write(&path, kind.label(), &files)?;
    Ok(path)
}
