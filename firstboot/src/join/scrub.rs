//! Cleans what programs print of secrets, before it becomes an error or a status line.

use crate::config::{Secret, judge_bootstrap_token};

const SHOWN: &str = "(secret)";

/// `text` without the secrets, and without anything that has the form of a join token: some tokens come into being
/// only on the way.
pub fn scrub(text: &str, secrets: &[&Secret]) -> String {
    let mut clean = text.to_owned();
    for secret in secrets.iter().map(|secret| secret.expose().trim()).filter(|secret| secret.len() >= 4) {
        clean = clean.replace(secret, SHOWN);
        // The part of a k3s token that is the secret proper may appear by itself.
        if let Some((_, password)) = secret.split_once("::").and_then(|(_, rest)| rest.split_once(':')) {
            clean = clean.replace(password, SHOWN);
        }
    }
    let is_edge = |c: char| c.is_whitespace() || "\"'`,;()[]{}<>=".contains(c);
    clean
        .split_inclusive(is_edge)
        .map(|piece| {
            let word = piece.trim_end_matches(is_edge);
            let bare = word.trim_end_matches(['.', ':']);
            let token = bare.starts_with("SWMTKN-") && bare.len() > 60
                || bare.starts_with("K10") && bare.contains("::")
                || judge_bootstrap_token(bare).is_ok();
            if token { format!("{SHOWN}{}", &piece[word.len()..]) } else { piece.to_owned() }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_tokens_do_not_get_through() {
        let k10 = format!("K10{}::server:pa55word-of-k3s", "a".repeat(64));
        let secret = Secret::new(k10.clone());
        let text = format!(
            "flag --token={k10} and pa55word-of-k3s, kubeadm join --token 07401b.f395accd246ae52d: no; SWMTKN-1-{}-{}",
            "a".repeat(50),
            "b".repeat(25)
        );
        let clean = scrub(&text, &[&secret]);
        for leak in ["pa55word", "f395", "aaaa", "bbbb"] {
            assert!(!clean.contains(leak), "{clean}");
        }
        assert!(clean.contains("kubeadm join --token (secret)") && clean.contains("no;"), "{clean}");
        assert_eq!(scrub("nothing to hide: a.b", &[]), "nothing to hide: a.b");
    }

    proptest::proptest! {
        #[test]
        fn what_is_secret_is_gone_and_the_rest_stays(before in "[ -~]{0,30}", after in "[ -~]{0,30}") {
            let secret = Secret::new("kV0lmS1TzqYb3Hn8");
            let clean = scrub(&format!("{before}kV0lmS1TzqYb3Hn8{after}"), &[&secret]);
            proptest::prop_assert!(!clean.contains("kV0lmS1TzqYb3Hn8"));
        }
    }
}
