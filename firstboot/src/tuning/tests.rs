use super::*;
use crate::config::{Document, Format, Machine, load};
use crate::host::simulated::SimulatedHost;

fn tuning(text: &str) -> Tuning {
    let bytes = format!("version = 1\n{text}").into_bytes();
    load(&[Document { name: "f".into(), format: Format::NodeToml, bytes }], &Machine::default()).unwrap().config.tuning
}

fn machine() -> SimulatedHost {
    let host = SimulatedHost::default();
    host.put("/proc/meminfo", "MemTotal:       16777216 kB\n");
    host.put("/proc/sys/vm/swappiness", "60\n");
    host.put("/proc/sys/vm/min_free_kbytes", "67584\n");
    host.put("/proc/sys/net/ipv4/tcp_rmem", "4096\t131072\t6291456\n");
    host.put("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
    for (cpu, core) in [(0, 0), (1, 0), (2, 1), (10, 1)] {
        host.put(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/core_id"), &format!("{core}\n"));
        host.put(&format!("/sys/devices/system/cpu/cpu{cpu}/topology/physical_package_id"), "0\n");
    }
    for node in ["node0", "node1"] {
        host.put(&format!("/sys/devices/system/node/{node}/hugepages/hugepages-2048kB/nr_hugepages"), "0\n");
    }
    host.plug_in("sda", 1 << 40, "A1", "ST4000");
    host.put("/sys/block/sda/queue/scheduler", "[none] mq-deadline\n");
    host.put("/sys/block/sda/queue/nr_requests", "64\n");
    host.put("/sys/block/sda/queue/max_sectors_kb", "1280\n");
    host.put("/sys/class/net/eth0/device/uevent", "DRIVER=mlx5_core\nPCI_ID=15B3:101D\n");
    host.put("/sys/class/net/eth0/mtu", "9000\n");
    host.put("/sys/class/net/lo/mtu", "65536\n");
    host.state().rings.insert("eth0".into(), [0x10, 8192, 0, 0, 8192, 1024, 0, 0, 1024]);
    host
}

fn of<'a>(report: &'a TuningReport, name: &str) -> &'a Outcome {
    let found = report.settings.iter().find(|setting| setting.name == name);
    found.unwrap_or_else(|| panic!("no {name} in {:?}", report.settings))
}

const ALL: &str = "[tuning]\ngovernor = \"performance\"\ntransparent_hugepages = \"never\"\nhugepages = { 2M = \"20% of RAM\" }\n\
    limits = { nofile = 262144 }\n[tuning.sysctl]\nvm.swappiness = 10\nvm.min_free_kbytes = \"1% of RAM, at most 8GiB\"\n\
    net.ipv4.tcp_rmem = \"4096 262144 134217728\"\nnet.ipv4.no_such = 1\n\
    [[tuning.disk]]\nmatch = { rotational = true }\nnr_requests = 2048\nscheduler = \"mq-deadline\"\nmax_sectors_kb = 16383\nread_ahead_kb = 1\n\
    [[tuning.interface]]\nmatch = { driver = \"mlx5*\" }\nrx_ring = 5000\ntx_ring = 16384\ncombined = \"cores\"\n";

#[test]
fn every_setting_is_reported_as_requested_and_effective() {
    let host = machine();
    // What real kernels make of it.
    host.state().clamped = [
        ("/sys/block/sda/queue/scheduler".to_owned(), "none [mq-deadline]".to_owned()),
        ("/sys/block/sda/queue/max_sectors_kb".to_owned(), "EINVAL".to_owned()),
        ("/sys/kernel/mm/transparent_hugepage/enabled".to_owned(), "always madvise [never]".to_owned()),
        ("/sys/devices/system/node/node1/hugepages/hugepages-2048kB/nr_hugepages".to_owned(), "700".to_owned()),
    ]
    .into();
    let report = apply(&host, &tuning(ALL)).unwrap();
    let seen = |name: &str| {
        let outcome = of(&report, name);
        (outcome.requested.as_str(), outcome.effective.as_str(), outcome.taken)
    };
    assert_eq!(seen("sysctl vm.swappiness"), ("10", "10", Taken::Whole));
    assert_eq!(seen("sysctl vm.min_free_kbytes"), ("167772", "167772", Taken::Whole));
    assert_eq!(seen("sysctl net.ipv4.tcp_rmem").2, Taken::Whole);
    assert_eq!(seen("sysctl net.ipv4.no_such"), ("1", "", Taken::Absent));
    assert_eq!(seen("transparent huge pages"), ("never", "never", Taken::Whole));
    // 20 % of 16 GiB are 1638 pages, the same on both nodes.
    assert_eq!(seen("huge pages of 2 MiB node0"), ("819", "819", Taken::Whole));
    assert_eq!(seen("huge pages of 2 MiB node1"), ("819", "700", Taken::Clamped));
    assert_eq!(seen("governor"), ("performance", "", Taken::Absent));
    assert_eq!(seen("sda scheduler"), ("mq-deadline", "mq-deadline", Taken::Whole));
    assert_eq!(seen("sda nr_requests"), ("2048", "2048", Taken::Whole));
    assert_eq!(seen("sda max_sectors_kb"), ("16383", "1280", Taken::Refused));
    assert_eq!(seen("sda read_ahead_kb"), ("1", "", Taken::Absent));
    assert_eq!(seen("eth0 rx ring"), ("5000", "8192", Taken::Clamped));
    assert_eq!(seen("eth0 tx ring"), ("16384", "8192", Taken::Clamped));
    assert!(of(&report, "eth0 tx ring").why.contains("at most 8192"));
    assert_eq!(seen("eth0 combined channels"), ("2", "", Taken::Absent));
    assert_eq!(report.interfaces.len(), 1);
    assert_eq!((report.interfaces[0].driver.as_str(), report.interfaces[0].mtu), ("mlx5_core", Some(9000)));
    let refused = report.refused().unwrap();
    assert!(refused.starts_with("5 of 16 not taken: ") && refused.contains("governor"), "{refused}");
    assert!(report.notes().iter().any(|note| note.contains("huge pages of 2 MiB node1: 819 was asked for, now 700")));
}

#[test]
fn files_set_it_in_every_boot_in_an_order_that_the_kernel_takes() {
    let host = machine();
    apply(&host, &tuning(ALL)).unwrap();
    let sysctl = host.text("/etc/sysctl.d/95-ingot-node.conf");
    assert!(
        sysctl.contains("\nvm.min_free_kbytes = 167772\n") && sysctl.contains("\nvm.swappiness = 10\n"),
        "{sysctl}"
    );
    let rules = host.text("/etc/udev/rules.d/95-ingot-node.rules");
    let place = |text: &str| rules.find(text).unwrap_or_else(|| panic!("no {text} in {rules}"));
    assert!(place("ATTR{queue/rotational}==\"1\"") < place("ATTR{queue/scheduler}=\"mq-deadline\""));
    assert!(place("ATTR{queue/scheduler}") < place("ATTR{queue/nr_requests}=\"2048\""));
    assert!(
        host.text("/etc/tmpfiles.d/95-ingot-node.conf")
            .contains("w /sys/kernel/mm/transparent_hugepage/enabled - - - - never\n")
    );
    assert!(
        host.text("/etc/systemd/system.conf.d/95-ingot-node.conf").ends_with("[Manager]\nDefaultLimitNOFILE=262144\n")
    );
    assert!(host.state().commands.contains(&"systemctl daemon-reload".to_owned()));
    // The next time nothing is written, loaded or set that is there already.
    host.state().commands.clear();
    host.state().rings.insert("eth0".into(), [0x10, 8192, 0, 0, 8192, 8192, 0, 0, 8192]);
    apply(&host, &tuning(ALL)).unwrap();
    assert_eq!(host.state().commands, ["systemctl show"]);
    // What is no longer wanted leaves no file.
    assert!(is_needed(&host, &Tuning::default()));
    apply(&host, &Tuning::default()).unwrap();
    assert!(!is_needed(&host, &Tuning::default()));
    assert!(!host.disk().files.keys().any(|path| path.starts_with("/etc/")));
}

#[test]
fn the_plug_may_be_pulled_anywhere() {
    let reference = machine();
    apply(&reference, &tuning(ALL)).unwrap();
    for point in 0.. {
        let host = machine();
        host.state().plug = Some(point);
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| apply(&host, &tuning(ALL)).map(drop)));
        let Err(payload) = result else { break };
        assert!(payload.is::<crate::host::simulated::Killed>(), "point {point}");
        host.reboot();
        apply(&host, &tuning(ALL)).unwrap();
        assert_eq!(host.disk(), reference.disk(), "point {point}");
    }
}

#[test]
fn the_real_kernel_is_asked() {
    let host = crate::host::RealHost::default();
    assert!(facts::memory(&host).unwrap().unwrap() > 1 << 20);
    assert!(facts::cores(&host).unwrap() >= 1);
    let mut request = [0; 9];
    request[0] = 0x10;
    // The loopback interface has a driver without rings; one that is not there has none at all.
    assert!(host.ethtool("lo", &mut request).is_err() && host.ethtool("no-such", &mut request).is_err());
    request[0] = 0x1;
    let error = host.ethtool("lo", &mut request).unwrap_err().to_string();
    assert!(error.contains("invalid"), "other commands are not passed on: {error}");
    for interface in facts::interfaces(&host).unwrap() {
        request[0] = 0x10;
        if host.ethtool(&interface.name, &mut request).is_ok() {
            assert!(request[5] <= request[1] && request[8] <= request[4], "{interface:?} {request:?}");
        }
    }
}
