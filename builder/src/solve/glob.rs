//! Patterns of names and versions: `*` stands for any text, `?` for one character.

/// Whether a text is a pattern rather than the one thing that it names.
pub(super) fn is_pattern(text: &str) -> bool {
    text.contains(['*', '?'])
}

/// Whether a pattern matches a whole text.
pub fn matches(pattern: &str, text: &str) -> bool {
    // Most texts differ in what comes before the first `*` or `?`.
    let plain = pattern.split(['*', '?']).next().unwrap_or_default();
    if !text.starts_with(plain) {
        return false;
    }
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    let (mut p, mut t) = (0, 0);
    // Where the last `*` was, and up to where it has taken the text: the only place to go back to.
    let mut star: Option<(usize, usize)> = None;
    while t < text.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, t));
                p += 1;
            }
            Some(c) if *c == '?' || *c == text[t] => {
                p += 1;
                t += 1;
            }
            _ => {
                let Some((at, taken)) = star else { return false };
                star = Some((at, taken + 1));
                p = at + 1;
                t = taken + 1;
            }
        }
    }
    pattern[p..].iter().all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns() {
        for (pattern, text) in
            [("5:29.*", "5:29.1-1~x"), ("*", ""), ("1.0", "1.0"), ("a*b*c", "a-b-b-c"), ("1.?", "1.2")]
        {
            assert!(matches(pattern, text), "{pattern} {text}");
        }
        for (pattern, text) in [("5:29.*", "5:28.1"), ("1.0", "1.0.1"), ("?", ""), ("a*b", "a-b-c")] {
            assert!(!matches(pattern, text), "{pattern} {text}");
        }
    }
}
