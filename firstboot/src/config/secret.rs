//! A text that must never be shown: not in a log, an error, a status report or a dump of the configuration.
//!
//! [`Secret`] gives its content only through [`Secret::expose`], so that every use can be found by searching for
//! that word; everything else that could print it prints `(secret)`. This module also judges whether a text is
//! fit to be a cluster secret.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Serialize, Serializer};

/// What is shown instead of a secret.
pub const REDACTED: &str = "(secret)";

/// The fewest characters that a cluster secret may have.
pub const MINIMUM_SECRET_CHARACTERS: usize = 32;

/// The secret that the sample configuration holds; refused wherever it is used.
pub const SAMPLE_SECRET: &str = "replace-me: run `openssl rand -base64 32` and put its output here";

/// A text that is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text as a secret.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself. Its callers must neither print nor log it, nor pass it on a command line.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(REDACTED)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(REDACTED)
    }
}

/// Words that stand in samples and in texts typed by hand, hardly ever in a random secret.
const PLACEHOLDERS: &[&str] = &[
    "changeme",
    "change-me",
    "change_me",
    "replaceme",
    "replace-me",
    "replace_me",
    "example",
    "sample",
    "placeholder",
    "yoursecret",
    "your-secret",
    "your_secret",
    "mysecret",
    "my-secret",
    "password",
    "passw0rd",
    "insertsecret",
    "correcthorse",
    "correct-horse",
    "correct horse",
];

/// Judges whether `text` is fit to be a cluster secret.
///
/// An attacker who can reach a manager gets one HMAC under the secret per connection and may try secrets against
/// it offline, so it must not be guessable: at least 32 characters that carry, by the frequency of its characters,
/// at least 90 bits; no sample, no repeated pattern, no row of neighbours (`abcdef...`).
///
/// # Errors
/// What is wrong with it, in words that do not repeat the secret.
pub fn judge_cluster_secret(text: &str) -> Result<(), &'static str> {
    let lower = text.to_lowercase();
    if text == SAMPLE_SECRET || PLACEHOLDERS.iter().any(|word| lower.contains(word)) {
        return Err("is a sample or a placeholder");
    }
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err("has control characters or blanks around it");
    }
    let characters: Vec<char> = text.chars().collect();
    if characters.len() < MINIMUM_SECRET_CHARACTERS {
        return Err("is shorter than 32 characters");
    }
    let repeats =
        (1..=characters.len() / 2).any(|period| characters.iter().zip(&characters[period..]).all(|(a, b)| a == b));
    let neighbours = characters.windows(2).filter(|pair| u32::from(pair[0]).abs_diff(u32::from(pair[1])) <= 1).count();
    if repeats || neighbours > characters.len() / 2 {
        return Err("is a repeated or regular pattern");
    }
    if entropy_bits(&characters) < 90.0 {
        return Err("has too little variety to be random");
    }
    Ok(())
}

/// Passwords and keys that stand in the documentation and the samples of the systems that nodes join.
const KNOWN_DEFAULTS: &[&str] = &[
    "k3s_hub_token",
    "develove",
    "dbpass",
    "dbuser",
    "postgres",
    "admin",
    "root",
    "secret",
    "test123",
    "secure-token-",
    "wjalrxut",
    "abcdef.0123456789abcdef",
    "license_key",
];

/// Those of them that give themselves away inside a longer text too.
const DEFAULT_PARTS: &[&str] = &["secure-token-", "wjalrxut", "k3s_hub_token"];

/// Judges a password, key or token that another system made, so that its form is that system's own: it must be no
/// sample, no default, and no shorter than eight characters.
///
/// # Errors
/// What is wrong with it, in words that do not repeat it.
pub fn judge_credential(text: &str) -> Result<(), &'static str> {
    let lower = text.to_lowercase();
    let known = |word: &&str| lower == **word || (DEFAULT_PARTS.contains(word) && lower.contains(*word));
    if text == SAMPLE_SECRET || PLACEHOLDERS.iter().any(|word| lower.contains(word)) || KNOWN_DEFAULTS.iter().any(known)
    {
        return Err("is a sample, a default or a placeholder");
    }
    if text.chars().any(char::is_control) || text.trim() != text {
        return Err("has control characters or blanks around it");
    }
    if text.chars().count() < 8 {
        return Err("is shorter than 8 characters");
    }
    Ok(())
}

/// The information that the frequencies of the characters admit, in bits: an upper bound for guessing it.
#[allow(clippy::cast_precision_loss)] // counts of at most a few thousand characters
fn entropy_bits(characters: &[char]) -> f64 {
    let mut counts: BTreeMap<char, usize> = BTreeMap::new();
    for character in characters {
        *counts.entry(*character).or_default() += 1;
    }
    let total = characters.len() as f64;
    counts.values().map(|&count| -(count as f64) * (count as f64 / total).log2()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_prints_shows_it() {
        let secret = Secret::new("hunter2");
        assert_eq!(
            format!("{secret} {secret:?} {}", serde_json::to_string(&secret).unwrap()).matches("hunter").count(),
            0
        );
        assert_eq!(secret.expose(), "hunter2");
    }

    #[test]
    fn random_secrets_pass() {
        for good in [
            "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2fG9jLt4oMyB6s=",
            "9f86d081884c7d659a2feaa0c55ad015",
            "3b1f0a6e2c9d8475fe01a2b3c4d5968778695a4b",
            "Zug fährt Ölkanne 71 über Quitten, jeder Wolf",
        ] {
            assert_eq!(judge_cluster_secret(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn known_defaults_are_refused_and_real_credentials_are_not() {
        for bad in [
            "develove",
            "K3S_hub_token",
            "postgres",
            "",
            "short",
            "secure-token-abc123",
            " padded-secret",
            "a\nbcdefgh",
        ] {
            assert!(judge_credential(bad).is_err(), "{bad}");
        }
        for good in ["7d1f0a6e-2c9d-4475-be01-a2b3c4d59687", "postgres-8fK2mQx", "n0t-a-def4ult"] {
            assert_eq!(judge_credential(good), Ok(()), "{good}");
        }
    }

    #[test]
    fn weak_and_sample_secrets_are_refused() {
        for bad in [
            "",
            "short",
            SAMPLE_SECRET,
            "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
            "0123456789abcdef0123456789abcdef",
            "abcdefghijklmnopqrstuvwxyz0123456789",
            "ChangeMe-kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2f",
            "kV0lmS1TzqYb3Hn8cQpZr5uXa7eWd2f\n",
            "ababcabababcbabcabacbabcabcbabacbab",
        ] {
            assert!(judge_cluster_secret(bad).is_err(), "{bad}");
        }
    }
}
