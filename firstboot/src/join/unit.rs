//! Units of systemd, as the drivers use them: started without waiting, looked at, and asked for their last words.

use std::time::Duration;

use super::JoinError;
use crate::host::Host;
use crate::step::Effect;

/// How long systemd may take to answer.
const PATIENCE: Duration = Duration::from_mins(1);

/// What a unit does (`ActiveState` of systemd).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitState {
    /// It runs.
    Active,
    /// It starts, or is started again by itself.
    Activating,
    /// It does not run.
    Inactive,
    /// It ended with an error.
    Failed,
}

/// What a unit does now.
pub fn state(host: &dyn Host, unit: &str) -> Result<UnitState, JoinError> {
    let output = host.run("systemctl", &["show", "--property=ActiveState", "--value", unit], PATIENCE)?;
    Ok(match String::from_utf8_lossy(&output).trim() {
        "active" | "reloading" => UnitState::Active,
        "activating" => UnitState::Activating,
        "failed" => UnitState::Failed,
        _ => UnitState::Inactive,
    })
}

/// Starts a unit now and at every boot. It is not waited for: some units are only up when the cluster has accepted
/// the node, and that is what the probe looks at.
pub fn start(host: &dyn Host, unit: &str) -> Result<(), JoinError> {
    host.run("systemctl", &["enable", unit], PATIENCE)?;
    host.run("systemctl", &["start", "--no-block", unit], PATIENCE)?;
    Ok(())
}

/// The same for the plan.
pub fn starting(unit: &str) -> [Effect; 2] {
    [Effect::run(["systemctl", "enable", unit]), Effect::run(["systemctl", "start", "--no-block", unit])]
}

/// Starts a unit anew, with the settings that it now has.
pub fn restart(host: &dyn Host, unit: &str) -> Result<(), JoinError> {
    host.run("systemctl", &["enable", unit], PATIENCE)?;
    host.run("systemctl", &["restart", "--no-block", unit], PATIENCE)?;
    Ok(())
}

/// Starts a unit that is up at once or not at all.
pub fn start_and_wait(host: &dyn Host, unit: &str) -> Result<(), JoinError> {
    let started = host.run("systemctl", &["enable", "--now", unit], Duration::from_mins(5));
    started.map_err(|error| JoinError::Preflight(format!("{unit} does not start: {error}")))?;
    Ok(())
}

/// Stops a unit for good.
pub fn stop(host: &dyn Host, unit: &str) -> Result<(), JoinError> {
    host.run("systemctl", &["disable", "--now", unit], Duration::from_mins(5))?;
    Ok(())
}

/// Makes systemd read changed unit files.
pub fn reload(host: &dyn Host) -> Result<(), JoinError> {
    host.run("systemctl", &["daemon-reload"], PATIENCE)?;
    Ok(())
}

/// The end of what a unit wrote in this boot.
pub fn last_words(host: &dyn Host, unit: &str) -> String {
    let arguments = ["--boot", "--unit", unit, "--lines", "40", "--output", "cat", "--no-pager"];
    // It only explains a failure that is reported anyway.
    host.run("journalctl", &arguments, PATIENCE)
        .map_or_else(|_| String::new(), |bytes| String::from_utf8_lossy(&bytes).into())
}

/// What a cluster's program says about why it does not join, as the error that it stands for. The patterns are the
/// messages of k3s, the kubelet and kubeadm.
pub fn diagnose(text: &str) -> Option<JoinError> {
    type Make = fn(String) -> JoinError;
    const SIGNS: &[(&[&str], Make)] = &[
        (
            &["duplicate hostname", "Node password rejected", "duplicate node name", "already exists in the cluster"],
            JoinError::DuplicateName,
        ),
        (
            &[
                "token CA hash does not match",
                "certificate signed by unknown authority",
                "are pinned",
                "CA certificates do not match",
            ],
            JoinError::WrongAuthority,
        ),
        (
            &[
                "Unauthorized",
                "status code 401",
                "HTTP 401",
                "has expired",
                "is invalid for this cluster",
                "failed to validate token",
                "not authorized",
            ],
            JoinError::TokenRefused,
        ),
        (
            &[
                "connection refused",
                "no route to host",
                "i/o timeout",
                "deadline exceeded",
                "network is unreachable",
                "503 Service Unavailable",
                "status code 503",
                "HTTP 503",
                "currently unable to handle the request",
                "couldn't validate the identity",
            ],
            JoinError::NoManagerYet,
        ),
    ];
    // The last line that says something decides, and of several signs in it the most specific one.
    text.lines().rev().find_map(|line| {
        let found = SIGNS.iter().find(|(signs, _)| signs.iter().any(|sign| line.contains(sign)));
        found.map(|(_, make)| make(line.trim().to_owned()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::status::Code;

    #[test]
    fn messages_of_real_programs_get_their_codes() {
        // k3s pkg/clientaccess, k3s pkg/agent/config, kubeadm token discovery, kubeadm preflight, an old cause below.
        for (text, code) in [
            (
                "level=fatal msg=\"token CA hash does not match the Cluster CA certificate hash: a != b\"",
                Code::ClusterAuthorityWrong,
            ),
            (
                "level=error msg=\"Node password rejected, duplicate hostname or contents of '/etc/rancher/node/password'\"",
                Code::DuplicateName,
            ),
            ("failed to get CA certs: 401 Unauthorized", Code::TokenRefused),
            (
                "cluster CA found in cluster-info ConfigMap is invalid: none of the public keys \"sha256:x\" are pinned",
                Code::ClusterAuthorityWrong,
            ),
            (
                "the JWS signature: could not find a JWS signature in the cluster-info ConfigMap for token ID \"aaaaaa\": token has expired",
                Code::TokenRefused,
            ),
            ("a Node with name \"w1\" and status \"Ready\" already exists in the cluster", Code::DuplicateName),
            (
                "401 Unauthorized\nGet https://10.0.0.1:6443/cacerts: connect: connection refused\nstarting",
                Code::WaitingForManager,
            ),
        ] {
            assert_eq!(diagnose(text).unwrap().code(), code, "{text}");
        }
        for (text, code) in [
            ("failed to get CA certs: https://10.0.0.1:6443/cacerts: 503 Service Unavailable", Code::WaitingForManager),
            ("unexpected response status code 401 from the server", Code::TokenRefused),
            ("the server is currently unable to handle the request (get nodes w1)", Code::WaitingForManager),
        ] {
            assert_eq!(diagnose(text).unwrap().code(), code, "{text}");
        }
        // Microseconds, process numbers and lines of klog are no status of HTTP.
        for text in [
            "all is well",
            "E1121 20:45:12.401503    1401 kubelet.go:2503] \"Container runtime network not ready\"",
            "I1121 20:45:12.503401    5031 reflector.go:401] Listing and watching *v1.Node",
        ] {
            assert!(diagnose(text).is_none(), "{text}");
        }
    }
}
