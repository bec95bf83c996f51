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
    let clean = without_cluster_tokens(&clean);
    let is_edge = |c: char| !c.is_ascii_alphanumeric() && c != '.';
    clean
        .split_inclusive(is_edge)
        .map(|piece| {
            let word = piece.trim_end_matches(is_edge).trim_end_matches('.');
            let token = judge_bootstrap_token(word).is_ok();
            if token { format!("{SHOWN}{}", &piece[word.len()..]) } else { piece.to_owned() }
        })
        .collect()
}

/// `text` without Swarm's and k3s's tokens, wherever in a word they begin.
fn without_cluster_tokens(text: &str) -> String {
    let (mut clean, mut rest) = (String::new(), text);
    while let Some(start) = ["SWMTKN-", "K10"].into_iter().filter_map(|begin| rest.find(begin)).min() {
        let (before, found) = rest.split_at(start);
        clean.push_str(before);
        let swarm = found.starts_with("SWMTKN-");
        let is_part = |c: char| {
            if swarm {
                c.is_ascii_alphanumeric() || c == '-'
            } else {
                !c.is_whitespace() && !"\"'`,;()[]{}<>=".contains(c)
            }
        };
        let (token, after) = found.split_at(found.find(|c| !is_part(c)).unwrap_or(found.len()));
        if swarm && token.len() > 60 || !swarm && token.contains("::") {
            clean.push_str(SHOWN);
            rest = after;
        } else {
            // No token, but one may begin within it.
            let (first, others) = found.split_at(1);
            clean.push_str(first);
            rest = others;
        }
    }
    clean + rest
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
        let glued =
            scrub(&format!("token:{} at=join/07401b.f395accd246ae52d.", "SWMTKN-1-".to_owned() + &"c".repeat(60)), &[]);
        assert_eq!(glued, "token:(secret) at=join/(secret).");
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
