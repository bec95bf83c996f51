use proptest::prelude::*;

use super::*;

fn parse(text: &str) -> Result<Scenario, String> {
    Scenario::parse(text, Path::new("dir/a.toml")).map_err(|error| error.to_string())
}

const HEAD: &str = "name = 'a'\ntimeout_seconds = 10\nnetworks = ['n']\n[[guest]]\nname = 'g'\nrole = 'r'\n";

#[test]
fn a_scenario_says_which_images_it_needs() {
    let text = format!("{HEAD}sector = 4096\n[[guest]]\nname = 'h'\nimage = 'b.raw'\n");
    let scenario = parse(&text).unwrap();
    let images: Vec<ImageKey> = scenario.images().into_iter().collect();
    assert_eq!(images, [ImageKey { role: "r".into(), sector: 4096 }]);
    assert_eq!(scenario.guest("h").unwrap().image.as_deref(), Some(Path::new("dir/b.raw")));
}

#[test]
fn every_mistake_has_its_place_and_its_remedy() {
    for (tail, want) in [
        ("memroy_mib = 5", "dir/a.toml:7:1: unknown key memroy_mib; did you mean memory_mib?"),
        ("bus = 'scsi'", "dir/a.toml:7:7: unknown variant `scsi`"),
        ("bus = 'ahci'\nsector = 4096", "dir/a.toml:4:1: guest g: QEMU's AHCI disks have 512-byte sectors only"),
        ("config = { version = 1 }", "no medium that brings it"),
        ("medium = 'usb'\nconfig = {}\nfiles = { 'node.toml' = '' }", "files has node.toml"),
        ("medium = 'usb'\nfiles = { '../x' = '' }", "not a plain file name"),
        ("networks = ['m']", "there is no network m"),
        ("networks = ['n', 'n']\nmacs = { 'n.3' = '52:54:00:00:00:01' }", "for network n.3, which it is not on"),
        ("fw_cfg = { 'a.name.that.is.much.too.long.here' = '' }", "too long a name for fw_cfg: 33 characters"),
        ("fw_cfg = { 'a/b' = '' }", "not the name of a credential"),
        ("kernel_arguments = ['a b']", "not one kernel parameter"),
        ("[[server]]\nname = 'g'", "dir/a.toml:7:1: server g: another server or a guest has this name"),
        ("[[server]]\nname = 's'\nfiles = { 'a' = '' }", "\"a\" is not a path"),
        ("[[server]]\nname = 's'\nbad = [{ path = '/a', count = 1, status = 200 }]", "a status is from 300 to 599"),
        (
            "[[server]]\nname = 's'\nbad = [{ path = '/a', count = 1, status = 503, headers = { A = \"b\\nc\" } }]",
            "a header for /a is empty or has several lines",
        ),
        ("[[step]]\nserver = 's'\nrequests = 'x'", "there is no server s; there are: none"),
        ("[[step]]\nguest = 'g'\nrequests = 'x'", "has a server, and no guest"),
        ("[[step]]\nserver = 's'\nrun = 'true'", "has a guest, and no server"),
        ("[[step]]\nguest = 'g'\nrun = 'true'\nconfig = {}", "belong to a step with stick = \"in\""),
        ("networks = ['n']\nmacs = { n = '53:54:00:00:00:01' }", "not a hardware address of one card"),
        ("[[guest]]\nname = 'g'\nrole = 'r'", "dir/a.toml:7:1: guest g: two guests have this name"),
        ("[[step]]\nguest = 'x'\nrun = 'true'", "dir/a.toml:7:1: there is no guest x; there are: g"),
        ("[[step]]\nguest = 'g'", "exactly one of: run, console, state, stick, on_stick, screen, power, power_cuts"),
        ("[[step]]\nguest = 'g'\nrun = 'true'\nstate = 'FB-500'", "exactly one of"),
        ("[[step]]\nguest = 'g'\nstick = 'in'", "dir/a.toml:7:1: guest g has no USB medium"),
        ("stick = false", "stick = false is for a guest with medium = \"usb\""),
        ("[[step]]\nguest = 'g'\nstate = '500'", "not a status code"),
        ("[[step]]\nguest = 'g'\npower_cuts = { count = 0, seed = 1, spread_seconds = 1 }", "count is from 1"),
        ("[[step]]\nguest = 'g'\npower_cuts = { count = 1, seed = 1, spread_seconds = 0 }", "spread_seconds is from"),
        ("[[step]]\nguest = 'g'\npower_cuts = { count = 1, seed = 1, spread_seconds = 1, from = '5' }", "status code"),
        ("[[step]]\nguest = 'g'\nconsole = '('", "not a regular expression"),
        ("[[step]]\nguest = 'g'\nconsole = 'x'\nexpect = 'y'", "expect belongs to a step with run or on_stick"),
        ("[[step]]\nguest = 'g'\nrun = 'true'\nuser = '-oX'", "\"-oX\" is not the name of a user"),
        ("[[step]]\nguest = 'g'\non_stick = 'a'", "dir/a.toml:7:1: guest g has no USB medium"),
        ("[[step]]\nguest = 'g'\nscreen = 'a'", "guest g has no display; say display = \"1280x800\""),
        ("display = '640x480'\n[[step]]\nguest = 'g'\nscreen = '../a'", "the picture \"../a\" has other characters"),
        ("[[step]]\nguest = 'g'\npower = 'on'\nnew_tpm = true", "guest g has no TPM to replace; say tpm = true"),
        ("tpm = true\n[[step]]\nguest = 'g'\npower = 'cut'\nnew_tpm = true", "use them with on or cycle"),
        ("display = '640'", "is not the size of a screen"),
        ("medium = 'usb'\n[[step]]\nguest = 'g'\nstick = 'out'\nfiles = { a = '' }", "step with stick = \"in\""),
        ("medium = 'usb'\n[[step]]\nguest = 'g'\nstick = 'in'\nfiles = { '../a' = '' }", "not a plain file name"),
        (
            "medium = 'usb'\n[[step]]\nguest = 'g'\nstick = 'in'\nsign = true",
            "sign and read_only belong to config or files",
        ),
        (
            "medium = 'usb'\n[[step]]\nguest = 'g'\nstick = 'in'\nfiles = { 'node.toml' = '' }\nconfig = { version = 1 }",
            "config and files say both what node.toml is",
        ),
    ] {
        let error = parse(&format!("{HEAD}{tail}\n")).unwrap_err();
        assert!(error.contains(want), "{tail}: {error}");
    }
}

#[test]
fn hardware_addresses_are_stable_and_differ() {
    let scenario = parse(&format!("{HEAD}networks = ['n']\nmacs = {{ n = '52:54:00:00:00:07' }}\n")).unwrap();
    let guest = scenario.guest("g").unwrap();
    assert_eq!(guest.mac("n"), "52:54:00:00:00:07");
    assert_eq!(guest.mac("ssh"), guest.mac("ssh"));
    assert_ne!(guest.mac("ssh"), guest.mac("other"));
    assert!(guest.mac("ssh").starts_with("52:54:00:"));
}

#[test]
fn a_network_that_is_named_again_is_another_card() {
    let text = format!("{HEAD}networks = ['n', 'n']\nmacs = {{ 'n.2' = '52:54:00:00:00:07' }}\n");
    let scenario = parse(&text).unwrap();
    let guest = scenario.guest("g").unwrap();
    assert_eq!(guest.cards(), [("n", "n".to_owned()), ("n", "n.2".to_owned())]);
    assert_eq!(guest.mac("n.2"), "52:54:00:00:00:07");
    assert_ne!(guest.mac("n"), guest.mac("n.2"));
}

#[test]
fn a_step_looks_at_what_a_server_was_asked() {
    let server = "[[server]]\nname = 's'\ntls = true\nbad = [{ path = '/a', count = 2, status = 503 }]\n";
    let step = "[[step]]\nserver = 's'\nrequests = 'POST /a.*body'\nat_least = 2\nnever = 'secret'\n";
    let scenario = parse(&format!("{HEAD}{server}{step}")).unwrap();
    assert!(scenario.servers[0].tls && scenario.servers[0].bad[0].count == 2);
    let Check::Requests { pattern: Some(pattern), at_least, never: Some(never), .. } = &scenario.steps[0].check else {
        panic!("{:?}", scenario.steps[0])
    };
    assert!(pattern.is_match("POST /a\nHost: h\n\nthe body") && !pattern.is_match("GET /a\n\nbody"));
    assert!(*at_least == 2 && never.is_match("a\nsecret") && scenario.steps[0].guest == "s");
}

#[test]
fn the_scenarios_that_ship_are_valid() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/scenarios");
    let mut seen = 0;
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "toml") {
            let scenario = Scenario::read(&path).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(Some(scenario.name.as_str()), path.file_stem().and_then(|stem| stem.to_str()));
            assert!(!scenario.steps.is_empty(), "{}", path.display());
            seen += 1;
        }
    }
    assert!(seen > 0);
}

proptest! {
    #[test]
    fn nothing_panics(tail in "[\\[\\]a-z='\" {}\n0-9\u{e4}-]{0,200}") {
        let _ = parse(&format!("{HEAD}{tail}"));
        let _ = parse(&tail);
    }
}
