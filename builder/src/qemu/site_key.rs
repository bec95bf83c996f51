//! The site key of a run: signs what sticks bring, as `minisign -S` does.
//!
//! Fresh for each run and never written anywhere. The format is that of <https://jedisct1.github.io/minisign/>.

use std::io::Cursor;

use minisign::KeyPair;

use super::QemuError;

/// A key pair, and the time of its last signature.
pub(super) struct SiteKey {
    pair: KeyPair,
    last: u64,
}

impl SiteKey {
    /// Makes a fresh one.
    ///
    /// # Errors
    /// There is no randomness.
    pub fn generate() -> Result<Self, QemuError> {
        let pair = KeyPair::generate_unencrypted_keypair().map_err(|error| QemuError::SiteKey(error.to_string()))?;
        Ok(Self { pair, last: 0 })
    }

    /// The public key, as `seal.site_keys` takes it.
    pub fn public(&self) -> String {
        self.pair.pk.to_base64()
    }

    /// The signature of a file; each one is later than the one before.
    ///
    /// # Errors
    /// The library cannot sign.
    pub fn sign(&mut self, name: &str, bytes: &[u8]) -> Result<Vec<u8>, QemuError> {
        // The time is what nodes tell old signatures by.
        #[allow(clippy::disallowed_methods)]
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs());
        self.last = now.max(self.last + 1);
        let comment = format!("timestamp:{}\tfile:{name}\thashed", self.last);
        let signed = minisign::sign(Some(&self.pair.pk), &self.pair.sk, Cursor::new(bytes), Some(&comment), None);
        Ok(signed.map_err(|error| QemuError::SiteKey(error.to_string()))?.into_string().into_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::Tool;

    #[test]
    fn minisign_itself_accepts_what_is_signed() {
        let mut key = SiteKey::generate().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("node.toml");
        std::fs::write(&file, "version = 1\n").unwrap();
        let (first, second) = (key.sign("node.toml", b"version = 1\n").unwrap(), key.sign("node.toml", b"").unwrap());
        let time = |signature: &[u8]| {
            let text = String::from_utf8_lossy(signature).into_owned();
            let digits = text.split("timestamp:").nth(1).unwrap().split('\t').next().unwrap().to_owned();
            digits.parse::<u64>().unwrap()
        };
        assert!(time(&first) < time(&second));
        std::fs::write(directory.path().join("node.toml.minisig"), first).unwrap();
        match Tool::new("minisign").args(["-V", "-P", &key.public(), "-m"]).arg(&file).run() {
            Err(crate::process::ProcessError::Start { .. }) => println!("skipped: minisign is not installed"),
            result => assert!(String::from_utf8_lossy(&result.unwrap().stdout).contains("file:node.toml")),
        }
    }
}
