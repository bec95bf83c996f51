use super::*;
use crate::config::{Document, Format, Loaded, Machine, load};

fn read(text: &str) -> Result<Loaded, String> {
    let bytes = format!("version = 1\n{text}").into_bytes();
    let documents = [Document { name: "f".into(), format: Format::NodeToml, bytes }];
    load(&documents, &Machine::default()).map_err(|error| error.to_string())
}

#[test]
fn everything_there_is_to_tune() {
    let loaded = read(
        "[tuning]\ngovernor = \"performance\"\ntransparent_hugepages = \"madvise\"\nhugepages = { 2M = \"20% of RAM\", 1G = 4 }\n\
         limits = { nofile = 262144, memlock = \"infinity\", nproc = \"100:200\" }\n\
         [tuning.sysctl]\nvm.swappiness = 10\n\"vm.min_free_kbytes\" = \"1% of RAM, at most 8GiB\"\n\
         net.ipv4.tcp_mem = [\"2%\", \"3%\", \"4.5% of RAM\"]\nnet.ipv4.tcp_rmem = \"4096  262144 134217728\"\n\
         [[tuning.disk]]\nmatch = { rotational = true }\nread_ahead_kb = 4096\nnr_requests = 2048\nscheduler = \"mq-deadline\"\n\
         [[tuning.interface]]\nmatch = { driver = \"mlx5_core\" }\nrx_ring = 8192\ncombined = \"cores\"\n",
    )
    .unwrap();
    assert!(loaded.warnings.is_empty(), "{:?}", loaded.warnings);
    let tuning = loaded.config.tuning;
    assert_eq!(tuning.sysctl["vm.swappiness"], [Amount::Plain("10".into())]);
    assert_eq!(tuning.sysctl["net.ipv4.tcp_rmem"], [Amount::Plain("4096 262144 134217728".into())]);
    assert_eq!(tuning.sysctl["net.ipv4.tcp_mem"].len(), 3);
    assert!(matches!(tuning.sysctl["vm.min_free_kbytes"][..], [Amount::Share(_, Unit::Kibibytes)]));
    assert_eq!(tuning.hugepages[&(1 << 30)], PageCount::Count(4));
    assert_eq!(tuning.limits["memlock"], (None, None));
    assert_eq!(tuning.limits["nproc"], (Some(100), Some(200)));
    let keys: Vec<&str> = tuning.disks[0].settings.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(keys, ["scheduler", "nr_requests", "read_ahead_kb"], "the scheduler comes first, whatever was written");
    assert_eq!(tuning.interfaces[0].combined, Some(Channels::Cores));
}

#[test]
fn values_that_would_fail_on_the_node_are_refused_before() {
    for (text, expected) in [
        ("[tuning.sysctl]\nswappiness = 1\n", "is no name of a setting"),
        ("[tuning.sysctl]\n\"../etc.x\" = 1\n", "is no name of a setting"),
        ("[tuning.sysctl]\nvm.swappiness = \"'10'\"\n", "quotes inside its quotes"),
        ("[tuning.sysctl]\nvm.swappiness = \"5% of RAM\"\n", "not known what this setting counts in"),
        ("[tuning.sysctl]\nvm.dirty_bytes = \"0% of RAM\"\n", "more than 0 %"),
        ("[tuning.sysctl]\nvm.swappiness = true\n", "is true or false"),
        ("[tuning]\nsysctl = 7\n", "write [tuning.sysctl]"),
        ("[tuning]\ngovernor = \"per formance\"\n", "is not one word"),
        ("[tuning]\ntransparent_hugepages = \"yes\"\n", "always, madvise, never"),
        ("[tuning]\nhugepages = { 4M = 1 }\n", "tuning.hugepages.4M: unknown key"),
        ("[tuning]\nhugepages = { 2M = \"50%\", 1G = \"50%\" }\n", "more than 90 %"),
        ("[tuning]\nlimits = { nofile = 5242880 }\n", "above fs.nr_open (1048576)"),
        ("[tuning]\nlimits = { nofile = \"200:100\" }\n", "is no limit"),
        ("[[tuning.disk]]\nscheduler = \"none\"\n", "match: is missing"),
        ("[[tuning.disk]]\nmatch = { rotational = true }\n", "sets nothing"),
        ("[[tuning.interface]]\nmatch = { name = \"a\", driver = \"b\" }\nrx_ring = 1\n", "needs one of"),
        ("[[tuning.interface]]\nmatch = { name = \"a\" }\ncombined = \"all\"\n", "nor \"cores\""),
        ("[[tuning.interface]]\nmatch = { name = \"a\" }\nrx_ring = 0\n", "from 1 to"),
    ] {
        let error = read(text).expect_err(text);
        assert!(error.contains(expected), "{error:?} lacks {expected:?}");
    }
    assert!(read("[tuning]\nlimits = { nofile = 5242880 }\n[tuning.sysctl]\nfs.nr_open = 6000000\n").is_ok());
}

#[test]
fn what_does_nothing_or_harm_is_said() {
    let text = "[tuning.sysctl]\nnet.ipv4.tcp_low_latency = 1\nnet.ipv4.tcp_timestamps = 0\nnet.ipv4.tcp_tw_reuse = 1\n\
                net.ipv4.ip_local_port_range = \"2048 65535\"\n";
    let warnings = read(text).unwrap().warnings;
    assert_eq!(warnings.len(), 3, "{warnings:?}");
    assert!(read(&format!("strict = true\n{text}")).is_err());
}
