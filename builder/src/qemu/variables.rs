//! Values that a scenario's node configuration takes from the run: `${name}` in any string of `config`,
//! `config_file`, `files`, `credentials`, `fw_cfg`, `kernel_arguments` and `smbios_serial`, and in what servers serve.
//!
//! | variable            | value                                                              |
//! |---------------------|--------------------------------------------------------------------|
//! | `${ssh_public_key}` | the run's own public key, as `authorized_keys` takes it            |
//! | `${secret}`         | 64 hexadecimal digits, the same for all guests, fresh with each run |
//! | `${site_key}`       | the public site key of the run; steps with `sign` sign with it     |
//! | `${guest}`          | the guest's name                                                   |
//! | `${mac.NETWORK}`    | the guest's hardware address on that network; of another card `${mac.NETWORK.2}` |
//! | `${mac.ssh}`        | its hardware address on the network that only carries ssh (DHCP)   |
//! | `${server.NAME}`    | the address of a server for guests, without a path: `http://198.18.0.2:40123` |
//! | `${address.NAME}`   | the same without the scheme: `198.18.0.2:40123`                      |
//! | `${ca.NAME}`        | the certificate that vouches for a server with `tls`, in PEM       |
//!
//! In what servers serve there are no `guest` and no `mac`.//!
//! `$${` stands for a literal `${`. A name that does not exist is an error.

use std::collections::BTreeMap;
use std::fmt::Write;

use thiserror::Error;
use toml::Value;

/// A `${…}` that cannot be replaced.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum VariableError {
    /// The name is not one of the variables.
    #[error("there is no variable ${{{name}}}; there are: {}", known.join(", "))]
    Unknown {
        /// The name given.
        name: String,
        /// The names that exist for this guest.
        known: Vec<String>,
    },
    /// `${` without `}`.
    #[error("\"${{\" without \"}}\" in {0:?}; write $${{ for a literal one")]
    Unclosed(String),
}

/// The variables of one guest, by name.
#[derive(Clone, Default)]
pub struct Variables(BTreeMap<String, String>);

// Values are secrets: only the names are shown.
impl std::fmt::Debug for Variables {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Variables {
    /// Adds one.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.0.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Replaces the variables of a text.
    ///
    /// # Errors
    /// See [`VariableError`].
    pub fn replace(&self, text: &str) -> Result<String, VariableError> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(dollar) = rest.find("${") {
            let (before, from) = rest.split_at(dollar);
            if let Some(kept) = before.strip_suffix('$') {
                out.push_str(kept);
                out.push_str("${");
                rest = &from[2..];
                continue;
            }
            out.push_str(before);
            let end = from.find('}').ok_or_else(|| VariableError::Unclosed(first_line(from)))?;
            let name = &from[2..end];
            let value = self.0.get(name).ok_or_else(|| VariableError::Unknown {
                name: name.to_owned(),
                known: self.0.keys().cloned().collect(),
            })?;
            out.push_str(value);
            rest = &from[end + 1..];
        }
        out.push_str(rest);
        Ok(out)
    }

    /// Replaces the variables in every string of a table; keys are left alone.
    ///
    /// # Errors
    /// See [`VariableError`].
    pub fn replace_in(&self, table: &toml::Table) -> Result<toml::Table, VariableError> {
        table.iter().map(|(key, value)| Ok((key.clone(), self.replace_value(value)?))).collect()
    }

    fn replace_value(&self, value: &Value) -> Result<Value, VariableError> {
        Ok(match value {
            Value::String(text) => Value::String(self.replace(text)?),
            Value::Array(items) => {
                Value::Array(items.iter().map(|item| self.replace_value(item)).collect::<Result<_, _>>()?)
            }
            Value::Table(table) => Value::Table(self.replace_in(table)?),
            other => other.clone(),
        })
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(40).collect()
}

/// A fresh secret: 32 bytes of the kernel's randomness, as hexadecimal digits.
///
/// # Errors
/// The kernel has no random source.
pub fn fresh_secret() -> std::io::Result<String> {
    let mut bytes = [0_u8; 32];
    let mut have = 0;
    while have < bytes.len() {
        have += rustix::rand::getrandom(&mut bytes[have..], rustix::rand::GetRandomFlags::empty())?;
    }
    Ok(bytes.iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    }))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn variables() -> Variables {
        Variables::default().with("secret", "s3").with("mac.ssh", "52:54:00:00:00:01")
    }

    #[test]
    fn they_are_replaced_everywhere_in_a_table() {
        let table: toml::Table =
            "a = ['x ${secret} y']\nb = { match = { mac = '${mac.ssh}' } }\nc = 1".parse().unwrap();
        let replaced = variables().replace_in(&table).unwrap();
        assert_eq!(replaced["a"][0].as_str(), Some("x s3 y"));
        assert_eq!(replaced["b"]["match"]["mac"].as_str(), Some("52:54:00:00:00:01"));
        assert_eq!(replaced["c"].as_integer(), Some(1));
    }

    #[test]
    fn wrong_ones_are_errors_that_name_the_right_ones() {
        let error = variables().replace("${sercet}").unwrap_err().to_string();
        assert_eq!(error, "there is no variable ${sercet}; there are: mac.ssh, secret");
        assert!(variables().replace("a ${secret").unwrap_err().to_string().contains("without"));
        assert_eq!(variables().replace("a $${secret} ${secret}").unwrap(), "a ${secret} s3");
    }

    #[test]
    fn secrets_are_fresh_and_not_shown() {
        let (one, two) = (fresh_secret().unwrap(), fresh_secret().unwrap());
        assert_eq!(one.len(), 64);
        assert_ne!(one, two);
        assert!(!format!("{:?}", variables()).contains("s3"));
    }

    proptest! {
        #[test]
        fn text_without_a_dollar_is_untouched(text in "[^$]*") {
            prop_assert_eq!(variables().replace(&text).unwrap(), text);
        }

        #[test]
        fn nothing_panics(text in "[$ {}a-z\u{e4}]*") {
            let _ = variables().replace(&text);
        }
    }
}
