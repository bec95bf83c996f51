//! Mirrors with certificates: the host's bundle of authorities decides.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::context::archive::{Archive, Package};
use crate::context::{TestContext, skip};

/// The archive behind `openssl s_server`, with a certificate of an authority that nobody knows.
struct Server {
    process: Child,
    url: String,
}

impl Server {
    fn serving(archive: &Archive, directory: &Path) -> Option<Self> {
        archive.write_to(directory);
        let extensions = "subjectAltName=DNS:localhost";
        let made = openssl(
            directory,
            &[
                "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-subj",
                "/CN=site",
            ],
        )? && openssl(
            directory,
            &[
                "req",
                "-newkey",
                "rsa:2048",
                "-nodes",
                "-keyout",
                "key.pem",
                "-out",
                "request.pem",
                "-subj",
                "/CN=localhost",
            ],
        )? && {
            std::fs::write(directory.join("extensions"), extensions).unwrap();
            openssl(
                directory,
                &[
                    "x509",
                    "-req",
                    "-in",
                    "request.pem",
                    "-CA",
                    "ca.pem",
                    "-CAkey",
                    "ca.key",
                    "-CAcreateserial",
                    "-out",
                    "cert.pem",
                    "-extfile",
                    "extensions",
                ],
            )?
        };
        assert!(made, "openssl makes certificates");
        #[allow(clippy::disallowed_methods)] // a peer, not a program of the build
        let mut process = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert", "cert.pem", "-key", "key.pem", "-WWW"])
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .ok()?;
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let port =
            lines.map_while(Result::ok).find_map(|line| line.strip_prefix("ACCEPT 127.0.0.1:").map(str::to_owned));
        Some(Self { process, url: format!("https://localhost:{}", port.expect("openssl says where it listens")) })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Whether the command succeeded; `None` where there is no openssl.
fn openssl(directory: &Path, arguments: &[&str]) -> Option<bool> {
    #[allow(clippy::disallowed_methods)] // a peer, not a program of the build
    let output = Command::new("openssl").args(arguments).current_dir(directory).output().ok()?;
    Some(output.status.success())
}

#[test]
fn a_mirror_of_the_site_is_trusted_by_the_hosts_authorities_only() {
    let archive =
        Archive::new([Package::kernel("kernel", "1.0"), Package::new("tools", "1"), Package::new("hello", "1.0")]);
    let context = TestContext::on(&archive, &["hello"]);
    let directory = tempfile::tempdir().unwrap();
    let Some(server) = Server::serving(&archive, directory.path()) else {
        return skip("openssl is not installed");
    };
    let mirror = format!("vendor={}", server.url);
    let lock = ["--mirror", &mirror, "lock", "site/node"];
    context.ingot(&lock).failed(1, &["InRelease", "UnknownIssuer", "SSL_CERT_FILE"]);
    let authority = directory.path().join("ca.pem");
    let context = context.with_environment("SSL_CERT_FILE", authority.to_str().unwrap());
    context.ingot(&lock).succeeded();
}
