//! The proxies, as the environment of services and logins.
//!
//! `DefaultEnvironment=` of systemd's manager reaches every service, Docker, containerd and kubelet among them;
//! `/etc/environment` reaches logins over ssh. Both are read by root; with a password in a URL nobody else may read
//! them.

use super::{PATIENCE, StepError};
use crate::config::Proxy;
use crate::config::network::Prefix;
use crate::host::Host;

/// systemd-system.conf(5).
const MANAGER: &str = "/etc/systemd/system.conf.d/10-ingot-proxy.conf";
/// pam_env(8).
const LOGINS: &str = "/etc/environment";
const BEGIN: &str = "# ingot: begin";
const END: &str = "# ingot: end";
/// What may run already and has to see a changed environment.
const ENGINES: [&str; 2] = ["containerd.service", "docker.service"];

/// Sets the proxies, or removes those of an earlier configuration. `networks` are reached directly.
pub fn apply(host: &dyn Host, proxy: Option<&Proxy>, networks: &[Prefix]) -> Result<(), StepError> {
    if proxy.is_none() && !host.exists(MANAGER) {
        return Ok(());
    }
    let variables = proxy.map(|proxy| proxy.environment(networks)).unwrap_or_default();
    let secret =
        proxy.is_some_and(|proxy| [&proxy.http, &proxy.https].into_iter().flatten().any(|url| url.has_credentials()));
    let logins = host.read(LOGINS, 1024 * 1024)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let logins = with_block(&logins.unwrap_or_default(), &variables);
    host.write(LOGINS, logins.as_bytes(), if secret { 0o600 } else { 0o644 })?;
    // Last, because its presence says that something is to be removed.
    if variables.is_empty() {
        host.remove(MANAGER)?;
    } else {
        host.write(MANAGER, manager(&variables).as_bytes(), if secret { 0o600 } else { 0o644 })?;
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

/// The file with the variables in a block that is replaced when they change.
fn with_block(file: &str, variables: &[(&'static str, String)]) -> String {
    let mut kept = String::new();
    let mut inside = false;
    for line in file.lines() {
        match line.trim() {
            BEGIN => inside = true,
            END => inside = false,
            _ if inside => {}
            _ => {
                kept.push_str(line);
                kept.push('\n');
            }
        }
    }
    if variables.is_empty() {
        return kept;
    }
    let lines: String = variables.iter().map(|(key, value)| format!("{key}={value}\n")).collect();
    format!("{kept}{BEGIN}\n{lines}{END}\n")
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
        assert_eq!((host.text(LOGINS).as_str(), host.exists(MANAGER)), ("LANG=C\n", false));
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
    }
}
