//! The proxies, as the environment of services and logins.
//!
//! `DefaultEnvironment=` of systemd's manager reaches every service, Docker, containerd and kubelet among them;
//! `/etc/environment` reaches logins over ssh. Both are read by root; with a password in a URL nobody else may read
//! them.

use super::effect::with_block;
use super::{Content, Effect, PATIENCE, StepError};
use crate::config::network::Prefix;
use crate::config::{Proxy, Secret};
use crate::host::Host;

/// systemd-system.conf(5).
const MANAGER: &str = "/etc/systemd/system.conf.d/10-ingot-proxy.conf";
/// `pam_env(8)`. The node's own requests read it too: the service runs already when it is written.
pub const LOGINS: &str = "/etc/environment";
/// What may run already and has to see a changed environment.
const ENGINES: [&str; 2] = ["containerd.service", "docker.service"];

/// What [`apply`] does; passwords are left out.
pub fn effects(proxy: Option<&Proxy>, networks: &[Prefix]) -> Vec<Effect> {
    let Some(proxy) = proxy else { return vec![Effect::Remove { path: MANAGER.into() }] };
    let text = manager(&proxy.environment(networks));
    let content = if proxy.has_credentials() { Content::Secret(Secret::new(text)) } else { Content::Text(text) };
    vec![
        Effect::Block {
            path: LOGINS.into(),
            text: lines(&proxy.shown_environment(networks)),
            otherwise: String::new(),
        },
        Effect::File { path: MANAGER.into(), mode: mode(proxy.has_credentials()), content },
        Effect::run(["systemctl", "daemon-reload"]),
    ]
}

fn mode(secret: bool) -> u32 {
    if secret { 0o600 } else { 0o644 }
}

/// Sets the proxies, or removes those of an earlier configuration. `networks` are reached directly.
pub fn apply(host: &dyn Host, proxy: Option<&Proxy>, networks: &[Prefix]) -> Result<(), StepError> {
    if proxy.is_none() && !host.exists(MANAGER) {
        return Ok(());
    }
    let variables = proxy.map(|proxy| proxy.environment(networks)).unwrap_or_default();
    let secret = proxy.is_some_and(Proxy::has_credentials);
    let logins = host.read(LOGINS, 1024 * 1024)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let logins = with_block(&logins.unwrap_or_default(), &lines(&variables));
    host.write(LOGINS, logins.as_bytes(), mode(secret))?;
    // Last, because its presence says that something is to be removed.
    if variables.is_empty() {
        host.remove(MANAGER)?;
    } else {
        host.write(MANAGER, manager(&variables).as_bytes(), mode(secret))?;
    }
    host.run("systemctl", &["daemon-reload"], PATIENCE)?;
    for unit in ENGINES {
        if ["/usr/lib", "/lib"].iter().any(|lib| host.exists(&format!("{lib}/systemd/system/{unit}"))) {
            host.run("systemctl", &["try-restart", unit], PATIENCE)?;
        }
    }
    Ok(())
}

fn manager(variables: &[(&'static str, String)]) -> String {
    // A percent sign begins a specifier of systemd; the values have neither quotes nor backslashes.
    let items: Vec<String> =
        variables.iter().map(|(key, value)| format!("\"{key}={}\"", value.replace('%', "%%"))).collect();
    format!("# Written by Ingot's first boot from [proxy].\n[Manager]\nDefaultEnvironment={}\n", items.join(" "))
}

fn lines(variables: &[(&'static str, String)]) -> String {
    variables.iter().map(|(key, value)| format!("{key}={value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::simulated::SimulatedHost;

    fn proxy(http: &str) -> Proxy {
        Proxy { http: Some(http.parse().unwrap()), https: None, no_proxy: vec![".lan".parse().unwrap()] }
    }

    #[test]
    fn services_and_logins_get_the_environment_and_lose_it_again() {
        let host = SimulatedHost::default();
        host.put(LOGINS, "LANG=C\n");
        host.put("/usr/lib/systemd/system/docker.service", "");
        apply(&host, None, &[]).unwrap();
        assert!(host.state().commands.is_empty(), "nothing to do");
        apply(&host, Some(&proxy("http://p.lan:3128")), &["10.77.0.0/24".parse().unwrap()]).unwrap();
        let direct = "localhost,127.0.0.0/8,::1,10.77.0.0/24,.lan";
        assert_eq!(
            host.text(MANAGER),
            format!(
                "# Written by Ingot's first boot from [proxy].\n[Manager]\nDefaultEnvironment=\
                 \"HTTP_PROXY=http://p.lan:3128\" \"http_proxy=http://p.lan:3128\" \"NO_PROXY={direct}\" \"no_proxy={direct}\"\n"
            )
        );
        assert!(host.text(LOGINS).starts_with("LANG=C\n# ingot: begin\nHTTP_PROXY=http://p.lan:3128\n"));
        assert_eq!(host.state().commands, ["systemctl daemon-reload", "systemctl try-restart docker.service"]);
        apply(&host, None, &[]).unwrap();
        let empty = "LANG=C\n# ingot: begin\n# ingot: end\n";
        assert_eq!((host.text(LOGINS).as_str(), host.exists(MANAGER)), (empty, false));
    }

    #[test]
    fn a_password_is_for_root_alone_and_in_no_command() {
        let host = SimulatedHost::default();
        apply(&host, Some(&proxy("http://u:hunt%40er2@p:1")), &[]).unwrap();
        assert!(host.text(MANAGER).contains("\"HTTP_PROXY=http://u:hunt%%40er2@p:1\""));
        assert!(host.text(LOGINS).contains("\nHTTP_PROXY=http://u:hunt%40er2@p:1\n"));
        let disk = host.disk();
        assert_eq!([MANAGER, LOGINS].map(|path| disk.files[path].1), [0o600, 0o600]);
        assert!(!host.state().commands.join("").contains("hunt"));
        let planned = effects(Some(&proxy("http://u:hunt%40er2@p:1")), &[]);
        let shown = planned.iter().flat_map(Effect::lines).collect::<Vec<_>>().join("\n");
        assert!(
            shown.contains("HTTP_PROXY=http://(secret)@p:1\n") && shown.contains("(mode 0600)\n    (secret)"),
            "{shown}"
        );
        assert!(!format!("{shown}{planned:?}").contains("hunt"));
    }

    /// What the node asks for itself goes over the proxy as soon as it is written, though the service runs already.
    #[test]
    fn the_nodes_own_requests_take_it() {
        use std::io::Write as _;

        use crate::host::RealHost;
        use crate::http::HttpRequest;
        use crate::http::test_server::read_request;

        let root = tempfile::tempdir().unwrap();
        let host = RealHost::new(root.path());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let variables = proxy(&format!("http://{}", listener.local_addr().unwrap())).environment(&[]);
        let server = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let asked = read_request(&mut stream);
            stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").unwrap();
            asked
        });
        host.write(LOGINS, with_block("A=b\n", &lines(&variables)).as_bytes(), 0o644).unwrap();
        assert!(
            host.http(&HttpRequest::get("http://near.lan/x", 100)).is_err(),
            "no_proxy names it; nobody knows it here"
        );
        let answer = host.http(&HttpRequest::get("http://far.invalid/x", 100)).unwrap();
        assert_eq!(answer.status, 403, "what the proxy says");
        assert!(server.join().unwrap().starts_with("GET http://far.invalid/x "), "and near.lan was not asked of it");
    }
}
