//! The command line of a virtual machine: a q35 PC with UEFI, one disk, a screen that nobody sees if any.

use std::path::{Path, PathBuf};

use super::accel::Accelerator;
use super::disk::Disk;
use super::qmp::STICK;
use super::scenario::{Bus, Display, Medium};
use super::switch::Port;

/// Everything that a virtual machine is made of.
#[derive(Debug, Clone)]
pub struct Machine {
    /// Its name, for process lists.
    pub name: String,
    /// What runs it.
    pub accelerator: Accelerator,
    /// Memory in MiB.
    pub memory_mib: u64,
    /// Virtual processors.
    pub cpus: u32,
    /// The firmware's code; never written.
    pub firmware_code: PathBuf,
    /// The firmware's variables; its own copy, written.
    pub firmware_variables: PathBuf,
    /// What it boots from.
    pub disk: Disk,
    /// What the disk is attached to.
    pub bus: Bus,
    /// More disks: serial numbers and files.
    pub data_disks: Vec<(String, PathBuf)>,
    /// OEM strings of SMBIOS.
    pub oem_strings: Vec<String>,
    /// More parameters of the kernel.
    pub kernel_arguments: Vec<String>,
    /// Entries of `fw_cfg`: names and files.
    pub fw_cfg: Vec<(String, PathBuf)>,
    /// The volume with the configuration.
    pub medium: Option<(Medium, PathBuf)>,
    /// Whether a USB medium is in from the start.
    pub stick: bool,
    /// Whether the medium is write-protected.
    pub read_only: bool,
    /// Its screen.
    pub display: Option<Display>,
    /// The socket of its TPM 2.0, if it has one.
    pub tpm: Option<PathBuf>,
    /// Ports of switches, with the hardware address of the card there, in the order of the cards.
    pub cards: Vec<(Port, String)>,
    /// Hardware address of the card that carries ssh; none, no such card.
    pub ssh_mac: Option<String>,
    /// Whether the card that carries ssh also reaches the outside through the host.
    pub internet: bool,
    /// The serial number in SMBIOS.
    pub serial_number: String,
    /// Where the serial port goes.
    pub serial: Serial,
    /// The control channel's socket.
    pub control: PathBuf,
}

/// Where a serial port goes.
#[derive(Debug, Clone)]
pub enum Serial {
    /// To a file, appended.
    Log(PathBuf),
    /// To a socket that QEMU listens on (it waits for a connection before it starts the guest), and to a file.
    Socket(PathBuf, PathBuf),
}

/// The subnet of the card that carries ssh. Of the benchmarking range (RFC 2544), which nothing in a cluster uses;
/// QEMU's default, 10.0.2.0/24, is one that Docker Swarm gives to an overlay network.
const SSH_SUBNET: &str = "198.18.0.0/24";

impl Machine {
    /// QEMU's arguments.
    pub fn arguments(&self) -> Vec<String> {
        let mut line = Line::default();
        line.pair("-name", &format!("{},process=ingot-{}", self.name, self.name));
        for flag in ["-nodefaults", "-no-user-config"] {
            line.0.push(flag.into());
        }
        line.pair("-display", "none");
        if let Some(Display { width, height }) = self.display {
            // The firmware and the kernel's drivers take the size from the monitor's description.
            line.pair("-device", &format!("VGA,edid=on,xres={width},yres={height}"));
        }
        line.pair("-machine", "q35,smm=off,vmport=off");
        match self.accelerator {
            Accelerator::Kvm => line.pair("-accel", "kvm").pair("-cpu", "host"),
            // Five-level page tables only make the translator's walks longer.
            Accelerator::Tcg => line.pair("-accel", "tcg,thread=multi").pair("-cpu", "max,la57=off"),
        };
        line.pair("-m", &format!("{}M", self.memory_mib)).pair("-smp", &self.cpus.to_string());
        line.pair("-rtc", "base=utc");
        line.pair("-drive", &format!("if=pflash,format=raw,unit=0,readonly=on,file={}", path(&self.firmware_code)));
        line.pair("-drive", &format!("if=pflash,format=raw,unit=1,file={}", path(&self.firmware_variables)));
        line.pair("-smbios", &format!("type=1,manufacturer=Ingot,product=QEMU,serial={}", escape(&self.serial_number)));
        line.pair("-smbios", &format!("type=3,serial={}", escape(&format!("chassis-{}", self.name))));
        // On a busy host the translator may get no time while the kernel counts timer interrupts, and the kernel takes the
        // timer for broken.
        let timer = (self.accelerator == Accelerator::Tcg).then_some("no_timer_check");
        let more: Vec<&str> = timer.into_iter().chain(self.kernel_arguments.iter().map(String::as_str)).collect();
        if !more.is_empty() {
            // systemd-stub adds the first string of this name to the command line of the image.
            let text = format!("io.systemd.stub.kernel-cmdline-extra={}", more.join(" "));
            line.pair("-smbios", &format!("type=11,value={}", escape(&text)));
        }
        for text in &self.oem_strings {
            line.pair("-smbios", &format!("type=11,value={}", escape(text)));
        }
        for (name, file) in &self.fw_cfg {
            line.pair("-fw_cfg", &format!("name={},file={}", escape(name), path(file)));
        }
        line.pair("-device", "virtio-rng-pci");
        if let Some(socket) = &self.tpm {
            line.pair("-chardev", &format!("socket,id=tpm0,path={}", path(socket)));
            line.pair("-tpmdev", "emulator,id=tpm0,chardev=tpm0").pair("-device", "tpm-crb,tpmdev=tpm0");
        }
        line.pair("-qmp", &format!("unix:{},server=on,wait=off", path(&self.control)));
        self.serial_port(&mut line);
        self.disks(&mut line);
        self.networks(&mut line);
        line.0
    }

    /// The directories that QEMU must reach.
    pub fn binds(&self, image: &Path) -> Vec<PathBuf> {
        let log = match &self.serial {
            Serial::Log(log) | Serial::Socket(_, log) => log,
        };
        let mut binds: Vec<PathBuf> = [self.control.as_path(), log, self.disk.path.as_path(), image]
            .into_iter()
            .map(super::disk::parent)
            .collect();
        binds.sort();
        binds.dedup();
        binds
    }

    fn serial_port(&self, line: &mut Line) {
        let to = match &self.serial {
            Serial::Log(log) => format!("file,id=serial0,append=on,path={}", path(log)),
            Serial::Socket(socket, log) => {
                format!("socket,id=serial0,server=on,wait=on,path={},logfile={},logappend=on", path(socket), path(log))
            }
        };
        line.pair("-chardev", &to).pair("-serial", "chardev:serial0");
    }

    fn disks(&self, line: &mut Line) {
        let usb = self.bus == Bus::Usb || matches!(self.medium, Some((Medium::Usb, _)));
        if usb {
            line.pair("-device", "qemu-xhci,id=xhci");
        }
        let disk = &self.disk;
        // The host may lose power; a test's disk is thrown away then.
        line.pair(
            "-drive",
            &format!("if=none,id=disk0,cache=unsafe,discard=unmap,format={},file={}", disk.format, path(&disk.path)),
        );
        let sizes = format!("logical_block_size={0},physical_block_size={0}", disk.sector);
        let common = format!("drive=disk0,bootindex=0,{sizes}");
        match self.bus {
            Bus::VirtioBlk => line.pair("-device", &format!("virtio-blk-pci,serial=ingot0,{common}")),
            Bus::VirtioScsi => line
                .pair("-device", "virtio-scsi-pci,id=scsi0")
                .pair("-device", &format!("scsi-hd,bus=scsi0.0,serial=ingot0,{common}")),
            Bus::Nvme => line.pair("-device", &format!("nvme,serial=ingot0,{common}")),
            Bus::Ahci => line.pair("-device", "ide-hd,bus=ide.0,serial=ingot0,drive=disk0,bootindex=0"),
            // usb-storage before QEMU 8.2 ignores the sector size; its two halves do not.
            Bus::Usb => line
                .pair("-device", "usb-bot,bus=xhci.0,id=bot0")
                .pair("-device", &format!("scsi-hd,bus=bot0.0,lun=0,serial=ingot0,{common}")),
        };
        for (index, (serial, file)) in self.data_disks.iter().enumerate() {
            let drive = format!("if=none,id=data{index},cache=unsafe,discard=unmap,format=raw,file={}", path(file));
            line.pair("-drive", &drive);
            line.pair("-device", &format!("virtio-blk-pci,serial={serial},drive=data{index}"));
        }
        if let Some((medium, file)) = &self.medium {
            // A node of its own, so that it outlives the device when the stick is pulled out.
            let read_only = if self.read_only { "on" } else { "off" };
            let node = format!(
                "driver=raw,node-name=medium0,read-only={read_only},file.driver=file,file.filename={}",
                path(file)
            );
            line.pair("-blockdev", &node);
            match medium {
                Medium::Usb if self.stick => line.pair(
                    "-device",
                    &format!("usb-storage,id={STICK},bus=xhci.0,drive=medium0,serial=ingot-stick,removable=on"),
                ),
                Medium::Usb => line,
                Medium::Cidata => line.pair("-device", "virtio-blk-pci,drive=medium0,serial=ingot-cidata"),
            };
        }
    }

    fn networks(&self, line: &mut Line) {
        for (index, (port, mac)) in self.cards.iter().enumerate() {
            line.pair(
                "-netdev",
                &format!(
                    "dgram,id=net{index},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                    path(&port.guest),
                    path(&port.switch)
                ),
            );
            line.pair("-device", &format!("virtio-net-pci,netdev=net{index},mac={mac},romfile="));
        }
        if let Some(mac) = &self.ssh_mac {
            let restrict = if self.internet { "off" } else { "on" };
            // Port 0: the kernel gives a free one, and the control channel tells which.
            line.pair(
                "-netdev",
                &format!("user,id=ssh,net={SSH_SUBNET},ipv6=off,restrict={restrict},hostfwd=tcp:127.0.0.1:0-:22"),
            );
            line.pair("-device", &format!("virtio-net-pci,netdev=ssh,mac={mac},romfile="));
        }
        if self.cards.is_empty() && self.ssh_mac.is_none() {
            line.pair("-nic", "none");
        }
    }
}

#[derive(Default)]
struct Line(Vec<String>);

impl Line {
    fn pair(&mut self, option: &str, value: &str) -> &mut Self {
        self.0.extend([option.to_owned(), value.to_owned()]);
        self
    }
}

/// A value inside an option's list: a comma is doubled.
fn escape(text: &str) -> String {
    text.replace(',', ",,")
}

fn path(path: &Path) -> String {
    escape(&path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(crate) fn machine(bus: Bus) -> Machine {
        Machine {
            name: "g".into(),
            accelerator: Accelerator::Tcg,
            memory_mib: 512,
            cpus: 1,
            firmware_code: "/f/CODE.fd".into(),
            firmware_variables: "/r/g.vars".into(),
            disk: Disk { path: "/w/a,b.qcow2".into(), format: "qcow2", sector: 4096 },
            bus,
            data_disks: vec![("D1".into(), "/w/g.data0".into())],
            oem_strings: vec!["a=b,c".into()],
            kernel_arguments: vec!["x=y,z".into(), "w".into()],
            fw_cfg: vec![("opt/a".into(), "/r/g.fw0".into())],
            medium: Some((Medium::Usb, "/r/g.stick".into())),
            stick: true,
            read_only: false,
            display: None,
            tpm: Some("/r/g,1.tpm".into()),
            cards: vec![(
                Port { guest: "/r/n.guest".into(), switch: "/r/n.switch".into() },
                "52:54:00:00:00:01".into(),
            )],
            ssh_mac: Some("52:54:00:00:00:02".into()),
            internet: false,
            serial_number: "S,1".into(),
            serial: Serial::Log("/w/g.log".into()),
            control: "/r/g.qmp".into(),
        }
    }

    #[test]
    fn commas_in_values_do_not_end_them() {
        let line = machine(Bus::Nvme).arguments().join(" ");
        assert!(line.contains("file=/w/a,,b.qcow2 "), "{line}");
        assert!(line.contains("serial=S,,1 "), "{line}");
        assert!(line.contains("type=11,value=a=b,,c "), "{line}");
        assert!(line.contains("kernel-cmdline-extra=no_timer_check x=y,,z w "), "{line}");
        assert!(line.contains("-fw_cfg name=opt/a,file=/r/g.fw0 "), "{line}");
        assert!(line.contains("-chardev socket,id=tpm0,path=/r/g,,1.tpm "), "{line}");
        assert!(line.contains("virtio-blk-pci,serial=D1,drive=data0"), "{line}");
        assert!(line.contains("nvme,serial=ingot0,drive=disk0,bootindex=0,logical_block_size=4096"), "{line}");
    }

    #[test]
    fn one_usb_controller_serves_disk_and_stick() {
        let line = machine(Bus::Usb).arguments().join(" ");
        assert_eq!(line.matches("qemu-xhci").count(), 1);
        assert!(line.contains("restrict=on"), "{line}");
    }

    #[test]
    fn every_directory_is_bound_once() {
        let binds = machine(Bus::VirtioBlk).binds(Path::new("/images/i.raw"));
        assert_eq!(binds, ["/images", "/r", "/w"].map(PathBuf::from));
    }
}
